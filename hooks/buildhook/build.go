package buildhook

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"lighter/internal/api"
	"lighter/internal/hookapi"
	"lighter/nar"
	"lighter/nar/signature"
	"lighter/store"
)

// conversation is the connection to the coordinator.
type conversation struct {
	net.Conn
	frames *hookapi.Reader
}

func dial(socket string) (*conversation, error) {
	conn, frames, err := hookapi.Dial(socket)
	if err != nil {
		return nil, err
	}
	return &conversation{conn, frames}, nil
}

// newID returns a random UUID (RFC 9562, version 4).
func newID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:], nil
}

// build is one accepted build.
type build struct {
	*hook
	order   hookapi.Order
	attempt int  // of the last progress
	remote  bool // that the machine builds was told, for this attempt

	// What ended the reading of an archive before its time.
	shipment *hookapi.Shipment
	result   *hookapi.Result
	lost     error // the conversation broke off
	over     bool  // the archive is

	// away says that the coordinator is gone, and until when it is waited for. It is back
	// when it was heard.
	away  bool
	until time.Time
}

// localError is the failure of this computer, for which no coordinator and no machine is
// to blame.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// run converses until the coordinator has said the last word, and returns the exit code.
func (b *build) run() int {
	if err := hookapi.WriteJSON(b.conn, hookapi.Build, &b.order); err != nil {
		b.lost = err
	}
	for {
		if b.lost == nil {
			b.lost = b.await()
		}
		for b.lost == nil && b.shipment != nil {
			s := b.shipment
			b.shipment = nil
			if code, over := b.receive(s); over {
				return code
			}
		}
		switch {
		case b.result != nil:
			return b.end(b.result)
		case b.lost != nil:
			if err := b.regain(); err != nil {
				b.say("%s: %v", b.order.Derivation.Base(), err)
				return ExitTransient
			}
		}
	}
}

// await reads frames until outputs come, or the result.
func (b *build) await() error {
	for b.shipment == nil && b.result == nil {
		if _, err := b.next(); err != nil {
			return err
		}
	}
	return nil
}

// next reads a frame and does what it asks for. Bytes of an archive are returned.
func (b *build) next() ([]byte, error) {
	kind, payload, err := b.conn.frames.Next()
	if err != nil {
		return nil, err
	}
	if b.away {
		b.away = false
		b.say("the coordinator is back")
	}
	switch kind {
	case hookapi.Archive:
		return payload, nil
	case hookapi.Log:
		if _, err := b.Log.Write(payload); err != nil {
			return nil, &localError{fmt.Errorf("write the log: %w", err)}
		}
		b.order.LogOffset += int64(len(payload))
		b.told.touch()
		return nil, nil
	case hookapi.State:
		var p hookapi.Progress
		if err := hookapi.Decode(payload, &p); err != nil {
			return nil, err
		}
		b.progress(&p)
		return nil, nil
	case hookapi.Transfer:
		var s hookapi.Shipment
		if err := hookapi.Decode(payload, &s); err != nil {
			return nil, err
		}
		b.shipment, b.over = &s, false
		return nil, nil
	case hookapi.End:
		b.over = true
		return nil, nil
	case hookapi.Final:
		var r hookapi.Result
		if err := hookapi.Decode(payload, &r); err != nil {
			return nil, err
		}
		b.result = &r
		return nil, nil
	}
	return nil, fmt.Errorf("%w: a frame %q", hookapi.ErrFrame, kind)
}

// progress tells the user what has changed.
func (b *build) progress(p *hookapi.Progress) {
	if p.Attempt != b.attempt {
		b.attempt, b.remote = p.Attempt, false
	}
	if p.Attempt != b.order.LogAttempt {
		b.order.LogAttempt, b.order.LogOffset = p.Attempt, 0
	}
	b.told.note(p.State, describe(p))
	switch {
	case p.State == api.Sending && p.Reason != "":
		b.sayOnce(fmt.Sprintf("sending %s to %s", p.Reason, p.Machine))
	case p.State == api.Building && !b.remote:
		b.remote = true
		b.told.printf(b.Out, "@ build-remote %s %s\n", b.order.Derivation, p.Machine)
	case p.State == api.Queued && p.Attempt > 0 && p.Reason != "", p.State == api.Building && p.Reason != "":
		b.sayOnce(fmt.Sprintf("%s: %s", b.order.Derivation.Base(), p.Reason))
	}
}

func describe(p *hookapi.Progress) string {
	text := string(p.State)
	if p.Machine != "" {
		text += ", " + p.Machine
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}

// end tells the user how it ended, and returns the exit code.
func (b *build) end(r *hookapi.Result) int {
	drv := b.order.Derivation
	if r.State == api.Succeeded {
		for _, p := range b.order.Outputs {
			if _, err := os.Lstat(string(p)); err != nil {
				b.say("%s was built, but an output is not in the store: %v", drv, err)
				return ExitTransient
			}
		}
		return ExitBuilt
	}
	text := r.Reason
	f := r.Failure
	if f != nil {
		text = f.Message
	}
	where := ""
	if r.Machine != "" {
		where = " offloaded to '" + r.Machine + "'"
	}
	b.told.printf(b.Out, "derivation '%s'%s failed: %s\n", drv, where, printable(text))
	switch {
	case f != nil && (f.Kind == string(store.FailedTimeout) || f.Kind == string(store.FailedSilence)):
		return ExitTimedOut
	case f != nil && f.Final():
		return ExitPermanent
	}
	return ExitTransient
}

// redialPause is the time between two tries to reach the coordinator.
const redialPause = 100 * time.Millisecond

// regain takes the conversation up again after it broke off. The build goes on meanwhile,
// and what came whole of the outputs stays.
func (b *build) regain() error {
	lost := b.lost
	b.hangUp()
	var own *localError
	if errors.As(lost, &own) || errors.Is(lost, hookapi.ErrFrame) {
		return lost // another conversation would go the same way
	}
	if b.away {
		time.Sleep(redialPause) // it took the order, and said nothing
	} else {
		b.say("the coordinator is gone (%v); waiting for it, the build goes on", lost)
		b.away, b.until = true, time.Now().Add(b.Patience)
	}
	b.lost, b.shipment = nil, nil
	b.told.note(api.Queued, "waiting for the coordinator")
	for ; time.Now().Before(b.until); time.Sleep(redialPause) {
		conn, err := dial(b.Socket)
		if err != nil {
			lost = err
			continue
		}
		b.conn = conn
		if lost = hookapi.WriteJSON(conn, hookapi.Build, &b.order); lost == nil {
			return nil
		}
		b.hangUp()
	}
	return fmt.Errorf("the coordinator did not come back in %s: %w", b.Patience, lost)
}

// ---- outputs ---------------------------------------------------------------------------

// receive takes a shipment of outputs and says whether it was good. It is over if the
// store cannot take them.
func (b *build) receive(s *hookapi.Shipment) (code int, over bool) {
	b.told.note(api.Fetching, fmt.Sprintf("retrieving %d MiB from %s", s.Bytes>>20, s.Machine))
	err := b.unpack()
	receipt := hookapi.Receipt{Number: s.Number}
	switch {
	case err == nil:
	case b.lost != nil, b.shipment != nil, b.result != nil:
		b.removeAll()
		return 0, false // another shipment, or none
	default:
		b.removeAll()
		receipt.Error, receipt.Local = err.Error(), isLocal(err)
		b.say("outputs from %s: %v", s.Machine, err)
	}
	if err := hookapi.WriteJSON(b.conn, hookapi.Delivered, &receipt); err != nil {
		b.lost = err
	}
	return ExitTransient, receipt.Local
}

// isLocal reports whether this computer's file system is to blame.
func isLocal(err error) bool {
	var own *localError
	var path *fs.PathError
	var link *os.LinkError
	var errno syscall.Errno
	return errors.As(err, &own) || errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &errno)
}

// errInterrupted says that an archive ended before its time; the build knows why.
var errInterrupted = errors.New("the archive was interrupted")

// archive reads the archive of a shipment.
type archive struct {
	b    *build
	rest []byte
}

func (a *archive) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		chunk, err := a.b.next()
		if err != nil {
			a.b.lost = err
		}
		if err != nil || a.b.shipment != nil || a.b.result != nil {
			return 0, errInterrupted
		}
		if a.b.over {
			return 0, io.EOF
		}
		a.rest = chunk
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// unpack writes the outputs in the archive to the store, and checks them. The archive says
// which item it was after the contents, so that each is unpacked under the name of one
// that is still to come, and renamed: of all names in the store, guix-daemon's garbage
// collector spares just those of the outputs.
func (b *build) unpack() error {
	acl, err := signature.LoadACL(b.ACL)
	if err != nil {
		return &localError{err}
	}
	b.removeAll()
	absent := slices.Clone(b.order.Outputs)
	for r := nar.NewArchiveReader(&archive{b: b}, b.Dir); ; {
		contents, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if len(absent) == 0 {
			return errors.New("there is more in the archive than the outputs")
		}
		spot := string(absent[0])
		if err := nar.Unpack(contents, spot); err != nil {
			return err
		}
		item, err := r.Item()
		if err != nil {
			return err
		}
		i := slices.Index(absent, item.Path)
		if i < 0 {
			return fmt.Errorf("%s was not asked for", item.Path)
		}
		if item.Signature == "" {
			return fmt.Errorf("%s: %w: it is not signed", item.Path, store.ErrCorrupt)
		}
		if _, err := acl.Check(item.Signature, item.SignedHash); err != nil {
			return fmt.Errorf("%s: %w", item.Path, err)
		}
		if i > 0 {
			if err := os.Rename(spot, string(item.Path)); err != nil {
				return err
			}
		}
		absent = slices.Delete(absent, i, i+1)
	}
	if len(absent) > 0 {
		return fmt.Errorf("%s is not in the archive", absent[0])
	}
	return nil
}

// removeAll removes what there is of the outputs. None of it is valid: guix-daemon asks
// for outputs that are not, and keeps everybody else away from them.
func (b *build) removeAll() {
	for _, p := range b.order.Outputs {
		if err := nar.RemoveAll(string(p)); err != nil {
			b.say("%v", err)
		}
	}
}

// ---- what the user sees ----------------------------------------------------------------

// teller writes to guix-daemon, and knows when it did so last: what is silent for too long
// is killed.
type teller struct {
	mu    sync.Mutex
	last  time.Time
	state api.State
	text  string // about the state
}

func (t *teller) printf(w io.Writer, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
	// That guix-daemon reads no more means that it is about to end this process.
	_, _ = fmt.Fprintf(w, format, args...)
}

// printable returns a text from elsewhere without what would control a terminal, or be
// taken for a line of guix-daemon's.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return '?'
	}, strings.TrimRight(text, "\n"))
	return strings.ReplaceAll(text, "\n", "\n  ")
}

func (t *teller) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
}

func (t *teller) note(state api.State, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state, t.text = state, text
}

// Between lines about something that takes long.
const (
	maxQuiet = 20 * time.Second
	minQuiet = 300 * time.Millisecond
)

// keepTalking says from time to time what is going on, as long as that is not the
// builder's business: how long that may be silent is for guix-daemon to watch.
func (b *build) keepTalking() (stop func()) {
	quiet := maxQuiet
	if b.MaxSilentTime > 0 {
		quiet = max(minQuiet, min(quiet, b.MaxSilentTime/3))
	}
	ticker := time.NewTicker(quiet / 2)
	done, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		for {
			select {
			case <-done:
				return
			case now := <-ticker.C:
				b.told.mu.Lock()
				due := b.told.state != api.Building && now.Sub(b.told.last) >= quiet/2
				text := b.told.text
				b.told.mu.Unlock()
				if due && text != "" {
					b.say("%s: %s", b.order.Derivation.Base(), text)
				}
			}
		}
	}()
	return func() {
		ticker.Stop()
		close(done)
		<-over
	}
}

// How the hook waits for guix-daemon to have read the log.
const (
	lastRead  = 4096 // bytes that guix-daemon reads when a hook has ended, and no more
	maxLinger = 30 * time.Second
	maxPause  = 20 * time.Millisecond
)

// awaitReader waits until guix-daemon will not lose any of what is in the pipe. It reads
// all its pipes in turn, so that this may take a while.
func awaitReader(pipe *os.File) {
	pause := 200 * time.Microsecond
	for deadline := time.Now().Add(maxLinger); time.Now().Before(deadline); time.Sleep(pause) {
		if n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ); err != nil || n <= lastRead {
			return
		}
		pause = min(2*pause, maxPause)
	}
}
