"""A world of eight apps behind documented APIs: tasks are instructions, grades are what changed in the database."""
