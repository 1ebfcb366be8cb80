"""What people see while a job runs and when it ends: progress, summaries and pictures."""
