package limits

import (
	"time"

	"lighter/internal/api"
)

// longer returns the longer of two limits, where 0 is no limit.
func longer(a, b api.Seconds) api.Seconds {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// shorter returns a request's limit as a machine bounds it, where 0 is no limit.
func shorter(a api.Seconds, bound time.Duration) api.Seconds {
	b := api.Seconds(bound.Seconds())
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}
