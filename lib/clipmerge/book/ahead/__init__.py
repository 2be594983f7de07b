"""What a run would compute, take and lack, before it runs, and which of its steps are no longer wanted after it."""
