//! Self-supervised learning on video: readers, augmentations, 3-D backbones, methods.
