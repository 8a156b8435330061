package head

import (
	"context"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"lighter/store"
	"lighter/store/substitute"
)

// maxServerLists bounds the clients that are kept, each for one list of servers.
const maxServerLists = 32

// fetcher brings derivations home from substitute servers.
type fetcher struct {
	head   *Store
	logger *slog.Logger

	mu      sync.Mutex
	clients map[string]*substitute.Client // by the servers' URLs
}

func newFetcher(head *Store, logger *slog.Logger) *fetcher {
	return &fetcher{head: head, logger: logger, clients: make(map[string]*substitute.Client)}
}

func (f *fetcher) client(urls []string) (*substitute.Client, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := strings.Join(urls, " ")
	if c := f.clients[name]; c != nil {
		return c, nil
	}
	c, err := substitute.New(substitute.Options{URLs: urls, ACL: f.head.ACL, Dir: f.head.Dir(), Logger: f.logger})
	if err != nil {
		return nil, err
	}
	if len(f.clients) >= maxServerLists {
		for old := range f.clients { // its users go on with it
			delete(f.clients, old)
			break
		}
	}
	f.clients[name] = c
	return c, nil
}

// fetch is coordinator.Config.Fetch.
func (f *fetcher) fetch(ctx context.Context, urls []string, paths []store.Path) error {
	c, err := f.client(urls)
	if err != nil {
		return err
	}
	_, err = c.FetchClosure(ctx, f.head.Backend, paths)
	return err
}

func (f *fetcher) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range maps.Values(f.clients) {
		c.Close()
	}
	clear(f.clients)
}
