"""Fetching the published weights: :mod:`.sources` says what is where, :mod:`.cli` fetches it."""
