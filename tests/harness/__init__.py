"""What tests run on: servers, databases of their own, pgTAP, and honest totals."""
