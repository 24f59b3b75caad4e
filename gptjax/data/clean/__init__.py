"""Steps that clean and judge one document."""
