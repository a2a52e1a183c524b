"""Emoji art as a captioned, labelled data set: five styles to train on, a sixth that no model ever trains on.

    python -m training.data.emoji --output_dir build/data/emoji           # five styles, about 3 minutes on two cores
    python -m training.data.emoji --output_dir build/data/emoji-unseen --styles openmoji            # the unseen style

The art comes as SVG from pinned npm packages (`npm pack`, checked by sha256; `--source_dir` takes tarballs that are
already there), names and keywords from emojibase-data (CLDR). Each drawing is matched to its emoji, rendered with
alpha, and put in a split:

    train          what is trained on
    validation     5 % of the concepts, in all styles
    heldout_pairs  5 % of the (concept, style) pairs; the concept is in train in another style
    unseen_style   all of OpenMoji (share-alike art: a test set, never trained on)

A concept is an emoji without skin tone, gender, hair and direction (`base_code`): a cook, a woman cook and a man cook
are one.
The same sources give the same bytes, on every build.
"""
