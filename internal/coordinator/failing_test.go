package coordinator

import (
	"context"
	"errors"
	"io"
	"sync"

	"lighter/store"
	"lighter/store/storetest"
)

// failingStore is a store whose first imports fail.
type failingStore struct {
	*storetest.Memory

	mu   sync.Mutex
	left int
}

func (s *failingStore) Import(ctx context.Context, r io.Reader, opts store.ImportOptions) ([]*store.Info, error) {
	s.mu.Lock()
	s.left--
	fail := s.left >= 0
	s.mu.Unlock()
	if fail {
		return nil, errors.New("no space left on device")
	}
	return s.Memory.Import(ctx, r, opts)
}
