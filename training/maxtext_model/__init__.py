"""MaxText models: what training, conversion, planning and evaluation share of them."""
