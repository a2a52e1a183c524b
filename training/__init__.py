from hub_models import terminal

terminal.opening()
