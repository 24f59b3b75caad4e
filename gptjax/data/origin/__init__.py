"""Where a document comes from: licences, opt-outs, and the polite fetcher."""
