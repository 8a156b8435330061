package daemon

import (
	"bytes"
	"io"
	"testing"

	"lighter/internal/wire"
	"lighter/store"
)

// FuzzAnswers has each of the readers of answers read whatever it may be. They must neither
// panic, nor read forever, nor take memory for what is only claimed.
func FuzzAnswers(f *testing.F) {
	for _, name := range []string{"queries", "archive-export", "build-local-ok", "build-local-fails"} {
		for _, s := range transcript(name) {
			f.Add(s.answer)
		}
	}
	f.Add(enc(replyRead, 100, replyNext, "x", replyWrite, "data", replyLast, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &Store{dir: store.DefaultDir}
		fresh := func() *conn {
			return &conn{r: wire.NewReader(bytes.NewReader(data)), w: wire.NewWriter(io.Discard), minor: ownMinor}
		}
		c := fresh()
		_ = c.reply(&streams{log: func([]byte) {}, source: func(limit int) []byte { return make([]byte, limit) }, sink: c.copyTo(io.Discard)})
		for _, infos := range []func(c *conn) error{
			func(c *conn) error { _, err := s.infos(c, []store.Path{nothing, wireText}); return err },
			func(c *conn) error { _, err := s.validOn(c, []store.Path{nothing}); return err },
			func(c *conn) error { _, err := s.gc(c, gcReturnDead, nil, 0); return err },
			func(c *conn) error { return c.addTempRoots([]store.Path{nothing}) },
			func(c *conn) error { return exportItem(c, io.Discard, nothing) },
			func(c *conn) error {
				l := buildLog{derivation: nothing, out: io.Discard}
				err := c.call(&streams{log: l.write})
				l.end()
				return err
			},
		} {
			_ = infos(fresh())
		}
	})
}
