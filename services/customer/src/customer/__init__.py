"""The customer service: who our customers are, how to recognise them, and every contact we had with them."""
