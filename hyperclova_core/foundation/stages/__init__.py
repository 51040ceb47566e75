"""The stage contract: kinds, work_units, engines, then the four kinds (source_, document_, corpus_stages on spark_frames), counting, gates,
runner. What works on content does so in a content_process: guarded_source, guarded_stage, guarded_sample."""
