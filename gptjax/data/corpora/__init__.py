"""Where documents come from: one file a source, listed in `gptjax.data.table`."""
