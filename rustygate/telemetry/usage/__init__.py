"""The usage record: recording settled exchanges, where it is stored, and prices."""
