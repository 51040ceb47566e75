"""The pipeline as a whole: recipes, what runs after what, and running it. Used by the command line and by Airflow alike."""
