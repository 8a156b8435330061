package buildhook

import (
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

	"golang.org/x/sys/unix"

	"lighter/internal/api"
	"lighter/internal/disk"
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

// build is one accepted build.
type build struct {
	*hook
	order   hookapi.Order
	attempt int   // of the last progress
	remote  bool  // that the machine builds was told, for this attempt
	logged  int64 // bytes of logs, of all attempts

	// What ended the reading of an archive before its time.
	shipment *hookapi.Shipment
	result   *hookapi.Result
	lost     error // the conversation broke off
	over     bool  // the archive is

	shipments int  // that were announced in this conversation
	shipping  bool // an archive was announced, and its end was not
	// delivered says that each output is in the store as this process has checked it. What
	// was there before, and what the coordinator says, does not count.
	delivered bool

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
	b.told.hear()
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

// next reads a frame and does what it asks for. Bytes of an archive are returned. A
// coordinator that says nothing for too long is an error.
func (b *build) next() ([]byte, error) {
	if err := b.conn.SetReadDeadline(time.Now().Add(b.silence)); err != nil {
		return nil, err
	}
	kind, payload, err := b.conn.frames.Next()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = fmt.Errorf("it said nothing for %s", b.silence)
	}
	if err != nil {
		return nil, err
	}
	b.told.hear()
	if b.away {
		b.away = false
		b.say("the coordinator is back")
	}
	switch kind {
	case hookapi.Archive:
		if !b.shipping || len(payload) == 0 {
			break
		}
		return payload, nil
	case hookapi.Log:
		if len(payload) == 0 {
			break
		}
		return nil, b.log(payload)
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
		if b.shipments++; s.Number != b.shipments {
			return nil, fmt.Errorf("%w: shipment %d after %d", hookapi.ErrFrame, s.Number, b.shipments-1)
		}
		b.shipment, b.shipping, b.over = &s, true, false
		return nil, nil
	case hookapi.End:
		if !b.shipping {
			break
		}
		b.shipping, b.over = false, true
		return nil, nil
	case hookapi.Final:
		var r hookapi.Result
		if err := hookapi.Decode(payload, &r); err != nil {
			return nil, err
		}
		b.result = &r
		return nil, nil
	}
	return nil, fmt.Errorf("%w: a frame %q of %d bytes, out of turn", hookapi.ErrFrame, kind, len(payload))
}

// maxLog is how many bytes of logs are passed on for one build: guix-daemon keeps them. A
// coordinator cuts the log of each attempt long before.
const maxLog = 8 << 30

// log passes a part of the log on, byte by byte: as if guix-daemon ran the builder itself.
func (b *build) log(p []byte) error {
	if b.logged += int64(len(p)); b.logged > maxLog {
		return fmt.Errorf("%w: a log of more than %d GiB", hookapi.ErrFrame, maxLog>>30)
	}
	if _, err := b.Log.Write(p); err != nil {
		return &localError{fmt.Errorf("write the log: %w", err)}
	}
	b.order.LogOffset += int64(len(p))
	b.told.touch()
	return nil
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
		b.sayOnce(fmt.Sprintf("sending %s to %s for %s", p.Reason, p.Machine, api.DerivationName(b.order.Derivation)))
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
		if b.delivered {
			return ExitBuilt
		}
		b.say("%s: the coordinator says that it was built, and has not delivered the outputs", drv)
		return ExitTransient
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
	b.lost, b.shipment, b.shipments, b.shipping = nil, nil, 0, false
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
	err := b.unpack(s)
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
func (b *build) unpack(s *hookapi.Shipment) error {
	acl, err := signature.LoadACL(b.ACL)
	if err != nil {
		return &localError{err}
	}
	b.removeAll()
	if err := b.checkSpace(s.Bytes); err != nil {
		return err
	}
	absent := slices.Clone(b.order.Outputs)
	in := &archive{b: b}
	announced := &announced{b: b, bytes: s.Bytes}
	for r := nar.NewArchiveReader(in, b.Dir); ; {
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
		announced.r = contents
		if err := nar.Unpack(announced, spot); err != nil {
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
		if want, told := s.NARHashes[item.Path]; told && want != item.NARHash {
			return fmt.Errorf("%s: %w: it is not what was announced", item.Path, store.ErrCorrupt)
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
	if n, err := in.Read(make([]byte, 1)); n > 0 {
		return errors.New("there is something after the end of the archive")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	b.delivered = true
	return nil
}

// Limits on what is written before it is known whether it is good, in bytes.
const (
	// keptFree is what stays free in the store's file system.
	keptFree = 64 << 20
	// spaceEvery is how much of a NAR is unpacked between two looks at what is free: small
	// files take more of a disk than of a NAR, and others write there too.
	spaceEvery = 1 << 20
)

// checkSpace returns an error where there is no room for that many bytes.
func (b *build) checkSpace(bytes int64) error {
	space, err := disk.Free(string(b.Dir))
	if err != nil {
		return &localError{err}
	}
	if bytes > space.Free-keptFree {
		return &localError{fmt.Errorf("%w: %s has %d MiB free, of which %d MiB stay free, and the outputs have %d MiB",
			unix.ENOSPC, b.Dir, space.Free>>20, keptFree>>20, bytes>>20)}
	}
	return nil
}

// announced reads the NARs of a shipment, and not a byte more than was announced.
type announced struct {
	b     *build
	r     io.Reader // the NAR that is being read
	bytes int64     // that are still to come, of all NARs together
	since int64     // read since the free space was looked at
}

func (a *announced) Read(p []byte) (int, error) {
	n, err := a.r.Read(p[:min(int64(len(p)), a.bytes+1)])
	if a.bytes -= int64(n); a.bytes < 0 {
		return 0, errors.New("there are more bytes in the archive than were announced")
	}
	if a.since += int64(n); a.since >= spaceEvery {
		a.since = 0
		if err := a.b.checkSpace(0); err != nil {
			return 0, err
		}
	}
	return n, err
}

// removeAll removes what there is of the outputs. None of it is valid: guix-daemon asks
// for outputs that are not, and keeps all others away from them.
func (b *build) removeAll() {
	b.delivered = false
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
	heard time.Time // when the coordinator said something last
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

// printable returns a text from elsewhere as what follows the start of a line: nothing in it
// starts another one, which guix-daemon or its clients could take for one of their own.
func printable(text string) string {
	return strings.ReplaceAll(hookapi.Printable(text), "\n", "\n  ")
}

func (t *teller) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
}

// hear notes that the coordinator has said something.
func (t *teller) hear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.heard = time.Now()
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
// builder's business: how long that may be silent is for guix-daemon to watch. So it is
// for how long the coordinator may be: nothing is said for one that says nothing itself.
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
				if text := b.told.due(now, quiet/2, 2*b.order.AliveEvery()); text != "" {
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

// due returns what is to be said now, if anything: not while it is being built, nor where
// something was said since quiet, or nothing was heard for longer than alive.
func (t *teller) due(now time.Time, quiet, alive time.Duration) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == api.Building || now.Sub(t.last) < quiet || !t.heard.IsZero() && now.Sub(t.heard) > alive {
		return ""
	}
	return t.text
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
