"""What is written: folders made ready, described, looked through and pushed. No app and no stem imports it."""
