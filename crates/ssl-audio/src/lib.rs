//! Self-supervised learning on sound: readers, front ends, augmentations, encoders, methods.
