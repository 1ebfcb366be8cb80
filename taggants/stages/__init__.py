"""The stages of a run, one file each; every stage finds what is done in the run folder and does the rest.

No stage calls another: `taggants.pipeline` holds their order. `model_training` is what the stages that train models share.
"""
