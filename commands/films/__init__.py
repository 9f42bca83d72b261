"""Films: find their shots, upscale a shot into a file, and join the files with the film's sound.

A shot is a task of its own (:class:`.shots.Shot`), so that several workers may share a film.
"""
