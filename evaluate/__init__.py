"""How good upscaled photos are: degraded photos with a known truth, metrics, a table and a contact sheet."""
