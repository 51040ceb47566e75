"""GPU jobs: what to run (`spec`), where (`backends`), the program that runs it (`launcher`), and why it ended (`causes`)."""
