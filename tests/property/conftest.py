"""Every property is tried on the same examples in every run, and never fails for being slow on a busy machine."""
from hypothesis import HealthCheck, settings

settings.register_profile('course', derandomize=True, deadline=None, database=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.load_profile('course')
