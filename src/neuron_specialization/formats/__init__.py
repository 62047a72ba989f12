"""File formats of others: fairseq's and the reference implementation's."""
