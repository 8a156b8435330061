package peer

import (
	"errors"
	"testing"

	"lighter/internal/agentapi"
	"lighter/store"
)

// TestLargerThanAnnounced cuts an archive off that is longer than it may be.
func TestLargerThanAnnounced(t *testing.T) {
	batch := []*store.Info{{NARSize: 1000}, {NARSize: 1, References: make([]store.Path, 10)}}
	tr := &transfer{bandwidth: new(Bandwidth)}
	r := &countingReader{r: endlessReader{}, counts: tr, left: archiveSize(batch)}
	var fault *agentapi.Fault
	buf := make([]byte, 4096)
	var err error
	for err == nil {
		_, err = r.Read(buf)
	}
	if !errors.As(err, &fault) || tr.bytes.Load() > 64<<10 || LinkFailed(r.err) {
		t.Errorf("after %d bytes: %v", tr.bytes.Load(), err)
	}
}

type endlessReader struct{}

func (endlessReader) Read(p []byte) (int, error) { return len(p), nil }
