"""What a store is built from: the protocol `EpisodeSource`, and one module a layout of files.

May import format, paths and errors. The only place that imports h5py.
"""
