package local
type inflight struct{}
type problemCache struct{}
