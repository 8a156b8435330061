// Package delivery is the coordinator's side of the conversation with a build hook of guix-daemon
// about one build: from the order on, the hook is told the state of the build, and gets its log
// and finally its outputs. Package hookapi has the frames.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/coordinator/peer"
	"lighter/internal/hookapi"
	"lighter/store"
)

// Config is what the deliveries of a coordinator share.
type Config struct {
	Logs   *buildlog.Folder
	Logger *slog.Logger
	// LongOrders is filled with one value for each order in memory that is longer than a chunk.
	LongOrders chan struct{}
	Farm       Farm
	// Alive returns once the coordinator has shown that it is alive.
	Alive func(context.Context) error
}

// MaxLongOrders is how many orders longer than a chunk are in memory at a time; each may have tens of MB.
const MaxLongOrders = 4

// questionPause is how long a hook may take until its next question or its order. A hook that
// guix-daemon keeps for later begins another conversation then.
const questionPause = time.Minute

// converse answers a hook's questions until it orders a build. The caller calls release once the
// inputs that the order names are no longer needed: few long orders are in memory at a time.
func (c *Config) converse(ctx context.Context, conn net.Conn, r *hookapi.Reader, answer func(context.Context, *hookapi.Question) (*hookapi.Answer, error)) (o *hookapi.Order, release func(), err error) {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(questionPause)); err != nil {
			return nil, nil, err
		}
		kind, length, err := r.Header()
		if err != nil {
			return nil, nil, err
		}
		switch kind {
		case hookapi.Ask:
			var q hookapi.Question
			if err := decodeNext(r, length, &q); err != nil {
				return nil, nil, err
			}
			a, err := answer(ctx, &q)
			if err != nil {
				return nil, nil, err
			}
			if err := hookapi.WriteJSON(conn, hookapi.Reply, a); err != nil {
				return nil, nil, err
			}
		case hookapi.Build:
			return c.readOrder(ctx, conn, r, length)
		default:
			return nil, nil, fmt.Errorf("%w: a frame %q before a build", hookapi.ErrFrame, kind)
		}
	}
}

func decodeNext(r *hookapi.Reader, length int, v any) error {
	payload, err := r.Payload(length)
	if err != nil {
		return err
	}
	return hookapi.Decode(payload, v)
}

func (c *Config) readOrder(ctx context.Context, conn net.Conn, r *hookapi.Reader, length int) (o *hookapi.Order, release func(), err error) {
	release = func() {}
	if length > hookapi.MaxChunk {
		select {
		case c.LongOrders <- struct{}{}:
			release = func() { <-c.LongOrders }
		case <-time.After(questionPause):
			return nil, nil, errors.New("there are too many long orders")
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	o = new(hookapi.Order)
	if err = decodeNext(r, length, o); err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return o, release, nil
}

// Delivery is the conversation with the hook that waits for one build.
type Delivery struct {
	ID string // of the build

	config     *Config
	logAttempt int             // the attempt of whose log the hook has a part already
	logOffset  int64           // how many bytes of it
	ctx        context.Context // ends with the conversation
	cancel     context.CancelCauseFunc
	mail       *mailbox.Mailbox[any] // *api.Build and openLog

	group sync.WaitGroup // every goroutine of the conversation

	writing   sync.Mutex
	conn      net.Conn
	last      hookapi.Progress     // that was written last
	said      time.Time            // when something new was written that the hook passes on
	shipments int                  // how many were announced
	receipt   chan hookapi.Receipt // for the last shipment; has room for one
}

// openLog is mail that says that a log can be read.
type openLog struct {
	id      string
	attempt int
}

// ErrGone is why everything that is done for a hook ends when the hook is gone.
const ErrGone = peer.Ended("guix-daemon's build hook is gone")

// Open goes on with a conversation whose order has been read, until ctx ends. It calls cancel,
// which must end ctx, when the hook is gone, and in Close.
func Open(ctx context.Context, cancel context.CancelCauseFunc, config *Config, conn net.Conn, r *hookapi.Reader, o *hookapi.Order) *Delivery {
	d := &Delivery{
		ID: o.ID, config: config, ctx: ctx, cancel: cancel, conn: conn,
		logAttempt: o.LogAttempt, logOffset: o.LogOffset, mail: mailbox.New[any](), said: time.Now(),
	}
	every := o.AliveEvery()
	d.group.Go(func() { d.cancel(d.read(r)) })
	d.group.Go(func() { d.repeat(every) })
	return d
}

// Context ends with the conversation.
func (d *Delivery) Context() context.Context { return d.ctx }

// Drop ends the conversation because another one has taken its place.
func (d *Delivery) Drop() { d.cancel(ErrGone) }

// Close ends the conversation and its connection, and waits for all its goroutines.
func (d *Delivery) Close() {
	d.conn.Close()
	d.cancel(nil)
	d.group.Wait()
}

// OpenLog tells the hook that the log of an attempt begins. It never blocks.
func (d *Delivery) OpenLog(id string, attempt int) { d.mail.Put(openLog{id, attempt}) }

// End tells the hook what became of the build.
func (d *Delivery) End(r hookapi.Result) error { return d.write(hookapi.Final, r) }

// Tell tells the hook the state of its build. It never blocks.
func (d *Delivery) Tell(b *api.Build) {
	copied := *b
	d.mail.Put(&copied)
}

func (d *Delivery) write(kind hookapi.Kind, v any) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return hookapi.WriteJSON(d.conn, kind, v)
}

func (d *Delivery) writeState(p hookapi.Progress) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.last, d.said = p, time.Now()
	return hookapi.WriteJSON(d.conn, hookapi.State, p)
}

// repeat tells the hook the state of its build again and again, as long as the coordinator is
// alive: that is how the hook knows that it is.
func (d *Delivery) repeat(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-d.ctx.Done():
			return
		}
		if d.config.Alive(d.ctx) != nil {
			return
		}
		d.writing.Lock()
		var err error
		if d.last.State != "" {
			err = hookapi.WriteJSON(d.conn, hookapi.State, d.last)
		}
		d.writing.Unlock()
		if err != nil {
			return
		}
	}
}

func (d *Delivery) writeBytes(kind hookapi.Kind, p []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.said = time.Now()
	return hookapi.Write(d.conn, kind, p)
}

// daemonSlack is by how much guix-daemon may end a hook early: it counts whole seconds, from the start
// of the one in which it began.
const daemonSlack = 1100 * time.Millisecond

// Overtime returns the failure of a build whose hook guix-daemon ended because the time that it gives
// was over, or nil if that is not why.
func (d *Delivery) Overtime(b *api.Build, now time.Time) *api.Failure {
	d.writing.Lock()
	said := d.said
	d.writing.Unlock()
	over := func(limit api.Seconds, since time.Time) bool {
		d := limit.Duration()
		return d > 0 && now.Sub(since) >= max(d-daemonSlack, d/2)
	}
	f := &api.Failure{Culprit: api.CulpritDerivation, Phase: b.State, Machine: b.Machine}
	switch {
	case over(b.Timeout, b.Submitted):
		f.Kind, f.Message = string(store.FailedTimeout), fmt.Sprintf("timed out after %v, which is guix-daemon's limit", b.Timeout.Duration())
	case b.State == api.Building && over(b.MaxSilentTime, said):
		f.Kind, f.Message = string(store.FailedSilence), fmt.Sprintf("timed out after %v of silence, which is guix-daemon's limit", b.MaxSilentTime.Duration())
	default:
		return nil
	}
	return f
}

// announce numbers and begins a shipment, which makes earlier ones void. It returns the channel on
// which the receipt arrives.
func (d *Delivery) announce(s *hookapi.Shipment) (<-chan hookapi.Receipt, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.shipments++
	d.receipt = make(chan hookapi.Receipt, 1)
	s.Number = d.shipments
	return d.receipt, hookapi.WriteJSON(d.conn, hookapi.Transfer, s)
}

// errVoid says that a later shipment was announced.
var errVoid = errors.New("the shipment is void")

// writeShipment writes a frame of a shipment.
func (d *Delivery) writeShipment(shipment int, kind hookapi.Kind, p []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.shipments != shipment {
		return errVoid
	}
	return hookapi.Write(d.conn, kind, p)
}

// took passes on the hook's receipt for a shipment, unless the shipment is void.
func (d *Delivery) took(r hookapi.Receipt) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	switch {
	case r.Number < 1 || r.Number > d.shipments:
		return hookapi.ErrFrame
	case r.Number < d.shipments:
		return nil
	}
	select {
	case d.receipt <- r:
		return nil
	default:
		return hookapi.ErrFrame // a second receipt
	}
}

// read takes the hook's receipts until it is gone.
func (d *Delivery) read(r *hookapi.Reader) error {
	for {
		kind, payload, err := r.Next()
		if err != nil {
			return ErrGone
		}
		var receipt hookapi.Receipt
		if kind != hookapi.Delivered || hookapi.Decode(payload, &receipt) != nil {
			return hookapi.ErrFrame
		}
		if err := d.took(receipt); err != nil {
			return err
		}
	}
}

// Report tells the hook what happens until the build is final.
func (d *Delivery) Report() error {
	var logged chan struct{} // closed when the log has been copied
	var opened openLog
	var last hookapi.Progress
	for {
		select {
		case <-d.ctx.Done():
			return context.Cause(d.ctx)
		case <-d.mail.Ready():
		}
		for _, m := range d.mail.Take() {
			switch m := m.(type) {
			case openLog:
				if m == opened {
					continue
				}
				opened = m
				before := logged
				logged = make(chan struct{})
				done := logged
				d.group.Go(func() {
					defer close(done)
					d.copyLog(before, m)
				})
			case *api.Build:
				if m.State.Final() {
					d.awaitLog(logged)
					return d.write(hookapi.Final, ResultOf(m))
				}
				p := hookapi.Progress{State: m.State, Attempt: m.Attempt, Machine: m.Machine, Reason: m.Reason}
				if p == last {
					continue
				}
				if p.State == api.Fetching || p.Attempt != last.Attempt {
					d.awaitLog(logged) // the hook counts what it has of the log of an attempt
				}
				last = p
				if err := d.writeState(p); err != nil {
					return err
				}
			}
		}
	}
}

// ResultOf is what a hook is told of a build that is final.
func ResultOf(b *api.Build) hookapi.Result {
	r := hookapi.Result{State: b.State, Machine: b.Machine, Reason: b.Reason, Failure: b.Failure}
	if r.State == api.DependencyFailed {
		r.State = api.Failed // which is all that guix-daemon is told, and what older hooks know
	}
	return r
}

// awaitLog waits until the hook has the whole log of an attempt.
func (d *Delivery) awaitLog(logged <-chan struct{}) {
	if logged == nil {
		return
	}
	select {
	case <-logged:
	case <-d.ctx.Done():
	}
}

// copyLog copies a log to the hook, once before is closed.
func (d *Delivery) copyLog(before <-chan struct{}, l openLog) {
	d.awaitLog(before)
	var offset int64
	if l.attempt == d.logAttempt {
		offset = d.logOffset
	}
	// A lost log is not a reason to end a build.
	if err := d.config.Logs.CopyTo(d.ctx, logFrames{d}, l.id, l.attempt, offset, true, nil); err != nil && !errors.Is(err, buildlog.ErrNoLog) && d.ctx.Err() == nil {
		d.config.Logger.Warn("the log of an offloaded build was not passed on", "build", d.ID, "err", err)
	}
}

// logFrames is a writer that makes frames.
type logFrames struct{ d *Delivery }

func (w logFrames) Write(p []byte) (int, error) {
	n := 0
	for chunk := range slices.Chunk(p, hookapi.MaxChunk) {
		if err := w.d.writeBytes(hookapi.Log, chunk); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

var shipBuffers = sync.Pool{New: func() any { return new([hookapi.MaxChunk]byte) }}

// Ship sends an archive of items from the machine to the hook, unread, and waits for the hook's
// receipt. It returns how many bytes it sent.
func (d *Delivery) Ship(ctx context.Context, p *peer.Peer, s hookapi.Shipment, items []store.Path) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(ErrGone) })() //nolint:contextcheck // it is another's
	body, err := p.Client.Export(ctx, items)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	p.FetchBandwidth.Start(time.Now())
	complete := false
	defer func() { p.FetchBandwidth.End(time.Now(), complete) }()
	receipts, err := d.announce(&s)
	if err != nil {
		return 0, ErrGone
	}
	buf := shipBuffers.Get().(*[hookapi.MaxChunk]byte)
	defer shipBuffers.Put(buf)
	var shipped int64
	for {
		n, err := body.Read(buf[:])
		if n > 0 && d.writeShipment(s.Number, hookapi.Archive, buf[:n]) != nil {
			return shipped, ErrGone
		}
		shipped += int64(n)
		p.FetchBandwidth.Moved(n)
		if complete = err == io.EOF; complete {
			break
		}
		if err != nil {
			return shipped, err
		}
	}
	if d.writeShipment(s.Number, hookapi.End, nil) != nil {
		return shipped, ErrGone
	}
	select {
	case receipt := <-receipts:
		return shipped, d.judge(ctx, p, receipt)
	case <-ctx.Done():
		return shipped, context.Cause(ctx)
	}
}

// judge says who is to blame for outputs that the hook did not accept.
func (d *Delivery) judge(ctx context.Context, p *peer.Peer, r hookapi.Receipt) error {
	switch {
	case r.Error == "":
		return nil
	case r.Local:
		<-ctx.Done() // the hook ends now
		return context.Cause(ctx)
	}
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Fetching, Machine: p.Name(), Message: "its archive of the outputs was refused: " + r.Error}
}
