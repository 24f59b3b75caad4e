"""What an answer is worth: rules, models, judges, and several of them with weights."""
