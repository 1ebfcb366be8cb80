"""Training of surrogates, victims and controls: plain torch epochs, and Ray Train around them."""
