"""What signing did, measured on the owner's own models: detection, transfer to models that were not crafted on, and harm."""
