"""What is kept: pure folds and their bytes, and the RocksDB store and Faust tables made of them."""
