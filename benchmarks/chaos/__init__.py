"""How much is lost and paid twice when everything fails: faults of the API, kills and freezes, by a seed."""
