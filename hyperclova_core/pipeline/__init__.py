"""Recipes and their runs. Read: recipe, graph, run, stage_requests, outcomes, finish; jobs and attempts; refresh and history; summary, funnel, usage."""
