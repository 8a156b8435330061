package daemon

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"time"

	"lighter/internal/wire"
	"lighter/store"
)

// options returns a set-options request, less its opcode, for a build. It has the form of
// the latest protocol; setOptions sends that of the daemon's.
//
// The log of builders comes with a line before each piece of it, so that a builder
// cannot say what only the daemon may.
func options(req *store.BuildRequest) string {
	pairs := []string{"multiplexed-build-output", "true"}
	add := func(name string, value int64) {
		// What is not set is left to the daemon's own command line.
		if value > 0 {
			pairs = append(pairs, name, strconv.FormatInt(value, 10))
		}
	}
	add("build-timeout", seconds(req.Timeout))
	add("build-max-silent-time", seconds(req.MaxSilentTime))
	add("build-cores", int64(req.Cores))
	return encodeOptions(req.KeepFailed, false, false, pairs)
}

// substituteOptions returns the options with which items come from the servers. A user whom
// the daemon does not trust may name servers too: what they send must be signed by a key of
// the daemon's ACL.
func substituteOptions(urls []string) string {
	return encodeOptions(false, true, true, []string{"multiplexed-build-output", "true", "substitute-urls", strings.Join(urls, " ")})
}

func encodeOptions(keepFailed, keepGoing, substitutes bool, pairs []string) string {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	_ = w.Bool(keepFailed) // errors stay until Flush, which has none
	_ = w.Bool(keepGoing)
	_ = w.Bool(false) // fallback
	_ = w.Uint64(0)   // verbosity: errors
	_ = w.Bool(false) // offload: this is what offloads
	_ = w.Uint64(0)   // verbosity of builds: their log
	_ = w.Uint64(0)   // type of the log
	_ = w.Bool(true)  // build trace: what became of a build
	_ = w.Bool(substitutes)
	_ = w.Uint64(uint64(len(pairs) / 2))
	for _, p := range pairs {
		_ = w.String(p)
	}
	_ = w.Flush()
	return b.String()
}

// seconds rounds up.
func seconds(d time.Duration) int64 { return int64(math.Ceil(d.Seconds())) }

// setOptions sends options unless they are in force. They hold for the connection, and
// cannot be taken back.
func (c *conn) setOptions(options string) error {
	if c.options == options {
		return nil
	}
	c.op(opSetOptions)
	const words = 8 // bytes each
	// The older forms have "max jobs" and "max silent time" after the verbosity, and
	// "cores" after the build trace.
	older := c.minor < minorWithFewerInts
	_, _ = c.w.Write([]byte(options[:4*words])) // errors stay until call
	if older {
		_ = c.w.Uint64(1)
		_ = c.w.Uint64(0)
	}
	_, _ = c.w.Write([]byte(options[4*words : 8*words]))
	if older {
		_ = c.w.Uint64(0)
	}
	_, _ = c.w.Write([]byte(options[8*words:]))
	if err := c.call(nil); err != nil {
		return err
	}
	c.options = options
	return nil
}
