"""What every room may use, and what knows no other room.

Files that survive a power cut, lines of JSON, several processes, progress, secrets kept back, settings compared, records of
what was done to rows. Nothing here knows pairs, models or trainers.
"""
