"""`ode gradients`: how far each gradient method is off on a task, and what it costs."""
