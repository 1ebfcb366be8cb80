"""What a run will do and what it will take, before it is started."""
