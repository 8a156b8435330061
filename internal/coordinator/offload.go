package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"lighter/internal/api"
	"lighter/internal/coordinator/buildlog"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/coordinator/mailbox"
	"lighter/internal/coordinator/peer"
	"lighter/internal/hookapi"
	"lighter/internal/ledger"
	"lighter/scheduler"
	"lighter/store"
)

// HookUser is who a build hook runs as.
type HookUser struct {
	Submitter *api.Submitter // of what the hook has built
	// MayTakeOver says what speaks against handing a build of somebody else's to the hook.
	MayTakeOver func(*api.Build) error
}

// Offload answers a build hook on a connection, as package hookapi has it, until that is
// over or the coordinator stops. It closes the connection.
func (c *Coordinator) Offload(ctx context.Context, conn net.Conn, r *hookapi.Reader, who HookUser) {
	defer conn.Close()
	ctx, cancel := c.UntilStopped(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := c.converse(ctx, conn, r, who); err != nil && ctx.Err() == nil {
		c.log.Debug("a build hook ended the conversation", "err", err)
	}
}

// converse answers a hook's questions until it has something built, or ends.
func (c *Coordinator) converse(ctx context.Context, conn net.Conn, r *hookapi.Reader, who HookUser) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(questionPause)); err != nil {
			return err
		}
		kind, length, err := r.Header()
		if err != nil {
			return err
		}
		switch kind {
		case hookapi.Ask:
			var q hookapi.Question
			if err := decodeNext(r, length, &q); err != nil {
				return err
			}
			a, err := c.mayOffload(ctx, &q)
			if err != nil {
				return err
			}
			if err := hookapi.WriteJSON(conn, hookapi.Reply, a); err != nil {
				return err
			}
		case hookapi.Build:
			return c.readOrder(ctx, conn, r, length, who)
		default:
			return fmt.Errorf("%w: a frame %q before a build", hookapi.ErrFrame, kind)
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

// readOrder reads an order and has it done. Only few long ones are in memory at a time,
// until what is to be known of their inputs is.
func (c *Coordinator) readOrder(ctx context.Context, conn net.Conn, r *hookapi.Reader, length int, who HookUser) error {
	release := func() {}
	if length > hookapi.MaxChunk {
		select {
		case c.longOrders <- struct{}{}:
			release = func() { <-c.longOrders }
		case <-time.After(questionPause):
			return errors.New("there are too many long orders")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var o hookapi.Order
	err := decodeNext(r, length, &o)
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		release()
		return err
	}
	return c.takeOrder(ctx, conn, r, &o, release, who)
}

// ---- whether to take it --------------------------------------------------------------

// Limits on what is taken from build hooks.
const (
	// firstContact is how long a question waits for machines that were not reached yet.
	firstContact = 3 * time.Second
	// maxQueuedPerSlot is how many offloaded builds may wait for each slot. Each is a
	// process on the head.
	maxQueuedPerSlot = 64
	// maxLongOrders is how many orders of more than a chunk are in memory at a time; each
	// may be some ten MB.
	maxLongOrders = 4
	// questionPause is how long a hook may take for a question, or the order. One that
	// guix-daemon keeps for later begins another conversation then.
	questionPause = time.Minute
)

// mayOffload decides about one build. guix-daemon neither builds locally nor elsewhere
// what was accepted once, so whatever speaks against it is found out here.
func (c *Coordinator) mayOffload(ctx context.Context, q *hookapi.Question) (*hookapi.Answer, error) {
	if _, err := c.head.Node(ctx, q.Derivation); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return &hookapi.Answer{Verdict: hookapi.Decline, Reason: err.Error()}, nil
	}
	deadline := c.now().Add(firstContact)
	for {
		var a hookapi.Answer
		var hopeful bool
		if err := c.do(ctx, func(l *loop) { a, hopeful = l.verdictOn(q) }); err != nil {
			return nil, err
		}
		if !hopeful || c.now().After(deadline) {
			return &a, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// verdictOn answers for this moment. It is hopeful if the answer may be a better one once
// machines that were never tried are reached.
func (l *loop) verdictOn(q *hookapi.Question) (a hookapi.Answer, hopeful bool) {
	b := scheduler.Build{ID: "offload", System: q.System, Features: q.Features}
	if reason := l.neverTakes(&b); reason != "" {
		return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}, false
	}
	later := func(reason string) hookapi.Answer {
		if q.WantsLocal {
			return hookapi.Answer{Verdict: hookapi.Decline, Reason: reason}
		}
		return hookapi.Answer{Verdict: hookapi.Postpone, Reason: reason}
	}
	if s := l.recorder.stalled.Load(); s != nil {
		return later("the coordinator's ledger takes no changes: " + s.err.Error()), false
	}
	if held := l.held(); held != "" {
		return later("the coordinator is " + held), false
	}
	if t := l.tasks[q.Derivation]; t != nil && t.wantedHome() {
		// Its outputs go into the store, for which guix-daemon must let go of them.
		return hookapi.Answer{Verdict: hookapi.Postpone, Reason: "a client of the coordinator has it built already"}, false
	}
	free, full, queued := 0, 0, l.queue.Len()
	var why []string
	for i, v := range scheduler.Explain(&b, l.schedulerMachines(l.now()), nil) {
		switch {
		case v.OK():
			free += l.machines[i].ParallelBuilds
		case v.Rule == scheduler.RuleSlots:
			full += l.machines[i].ParallelBuilds
		case v.Rule == scheduler.RuleAvailable && !l.machines[i].tried():
			hopeful = true
			why = append(why, v.Machine+": "+v.Actual)
		case v.Rule == scheduler.RuleAvailable, v.Rule == scheduler.RuleAdmission, v.Rule == scheduler.RuleLoad, v.Rule == scheduler.RuleDisk:
			why = append(why, v.Machine+": "+v.Actual)
		}
	}
	switch slots := free + full; {
	case slots == 0:
		return later("no machine can take it now: " + strings.Join(why, "; ")), hopeful
	case free == 0 && q.WantsLocal:
		return later("all slots are taken, and guix-daemon has a free one"), false
	case queued >= maxQueuedPerSlot*slots:
		return later(fmt.Sprintf("%d builds wait already", queued)), false
	}
	return hookapi.Answer{Verdict: hookapi.Accept}, false
}

// tried reports whether the first try to reach the machine has ended.
func (m *machine) tried() bool { return m.state == api.MachineUp || m.state == api.MachineDown }

// ---- one build -------------------------------------------------------------------------

// takeOrder has a build done and hands its outputs over. It returns when that is over, or
// the hook is gone: then the build is canceled. It calls release when the order's inputs
// are not needed any more.
func (c *Coordinator) takeOrder(ctx context.Context, conn net.Conn, r *hookapi.Reader, o *hookapi.Order, release func(), who HookUser) error {
	ctx, cancel := context.WithCancelCause(ctx)
	d := &delivery{
		c: c, conn: conn, id: o.ID, logAttempt: o.LogAttempt, logOffset: o.LogOffset,
		ctx: ctx, cancel: cancel, mail: mailbox.New[any](), user: who,
	}
	inputs := o.Inputs
	o.Inputs = nil
	defer d.group.Wait()
	defer cancel(nil)
	defer conn.Close()
	d.group.Go(func() { cancel(d.read(r)) })
	d.group.Go(func() {
		defer release()
		c.head.Prefetch(d.ctx, inputs)
	})
	d.group.Go(func() { d.repeat(o.AliveEvery()) })
	b, err := c.takeUpOrder(ctx, d, o)
	defer c.post(func(l *loop) { d.gone(l) })
	if err != nil {
		if ctx.Err() != nil || passes(err) {
			return err // the hook comes back
		}
		e := AsError(err)
		return d.write(hookapi.Final, hookapi.Result{State: api.Failed, Failure: &api.Failure{
			Culprit: api.CulpritCoordinator, Phase: api.Queued, Message: e.Message,
		}})
	}
	if b.State.Final() {
		return d.write(hookapi.Final, resultOf(b))
	}
	return d.report()
}

// passes reports whether an order that was not taken up for that reason may be later, or by
// a coordinator that is started anew.
func passes(err error) bool {
	for _, target := range []error{errStopping, ledger.ErrDiskFull, ledger.ErrFailed, ledger.ErrClosed} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// takeUpOrder submits the build, or finds it if an earlier conversation was about it.
func (c *Coordinator) takeUpOrder(ctx context.Context, d *delivery, o *hookapi.Order) (*api.Build, error) {
	if err := o.Check(); err != nil {
		return nil, api.BadRequest("%v", err)
	}
	n, err := c.head.Node(ctx, o.Derivation)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, out := range n.Outputs {
		if slices.Contains(o.Outputs, out.Path) {
			names = append(names, out.Name)
		}
	}
	if len(names) != len(o.Outputs) {
		return nil, api.BadRequest("%s: not all of %v are its outputs", o.Derivation, o.Outputs)
	}
	if err := d.mayBeTaken(ctx); err != nil {
		return nil, err
	}
	if err := c.do(ctx, func(l *loop) { l.deliveries[d.id] = d }); err != nil {
		return nil, err
	}
	answers, err := c.Submit(ctx, []api.Request{{
		ID: o.ID, Derivation: o.Derivation, Outputs: names, Offload: true,
		Timeout: o.Timeout, MaxSilentTime: o.MaxSilentTime,
	}}, d.user.Submitter)
	if err != nil {
		return nil, err
	}
	switch b := answers[0].Build; {
	case b == nil:
		return nil, &api.Error{Code: answers[0].Code, Message: answers[0].Error}
	case !b.Offload:
		return nil, api.BadRequest("id %s is the id of a client's build", o.ID)
	}
	found := make(chan bool, 1)
	c.post(func(l *loop) {
		live := d.came(l)
		l.durably(func() { found <- live })
	})
	select {
	case live := <-found:
		if live {
			return answers[0].Build, nil
		}
		return c.ledger.Build(ctx, o.ID)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.stopped:
		return nil, errStopping
	}
}

// mayBeTaken refuses an order for a build that is somebody else's: whoever has the
// conversation about a build gets its outputs, and cancels it by ending that.
func (d *delivery) mayBeTaken(ctx context.Context) error {
	b, err := d.c.ledger.Build(ctx, d.id)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.user.MayTakeOver(b)
}

// came gives a build its hook, if it is not final.
func (d *delivery) came(l *loop) bool {
	rec := l.builds[d.id]
	if rec == nil {
		return false
	}
	if old := rec.delivery; old != nil && old != d {
		old.cancel(errHookGone)
	}
	rec.delivery = d
	t := rec.task
	d.tell(&rec.Build)
	if t.logAttempt > 0 && t.logAttempt == t.attempt {
		d.mail.Put(openLog{t.logID, t.logAttempt})
	}
	if t.available && t.kept != nil && t.underWay == nil && !l.delayed[t] {
		t.deliver(l)
	}
	return true
}

// gone cancels the build whose hook is gone, if no other has come for it.
func (d *delivery) gone(l *loop) {
	if l.deliveries[d.id] == d {
		delete(l.deliveries, d.id)
	}
	rec := l.builds[d.id]
	if rec == nil || !rec.Offload || l.ctx.Err() != nil {
		return
	}
	if rec.delivery == d {
		rec.delivery = nil
	}
	if rec.delivery != nil || l.deliveries[d.id] != nil {
		return
	}
	rec.cancel(l, "guix-daemon does not want it any more")
	l.placing = true
}

// logOpened says that the log of a task's attempt begins.
func (r *attempt) logOpened() {
	t := r.task
	if t.underWay != r {
		return
	}
	t.logID, t.logAttempt = r.id, r.attempt
	for _, rec := range t.builds {
		if rec.delivery != nil {
			rec.delivery.mail.Put(openLog{r.id, r.attempt})
		}
	}
}

// deliver starts handing the outputs that a machine keeps to a hook that wants them, one
// after the other.
func (t *task) deliver(l *loop) {
	if t.underWay != nil {
		return
	}
	t.machine = t.kept
	for _, rec := range t.builds {
		if rec.Offload && rec.delivery != nil {
			r := l.newAttempt(t, t.kept)
			r.fetchOnly, r.deliver, r.to = true, rec, rec.delivery
			t.setState(l, api.Fetching, "guix-daemon takes the outputs")
			l.group.Go(r.main)
			return
		}
	}
	t.setState(l, api.Fetching, "the build hook of guix-daemon is to come back for the outputs")
}

// handOver gives the outputs to a hook.
func (r *attempt) handOver() (*outcome, error) {
	r.phase = api.Fetching
	wanted, err := r.node.OutputPaths(r.deliver.Outputs)
	if err != nil {
		return nil, &headstore.Error{Err: err}
	}
	s := hookapi.Shipment{Machine: r.machine.Name, Items: len(wanted), NARHashes: make(map[store.Path]store.Hash, len(wanted))}
	for _, p := range wanted {
		item := r.c.kept.On(r.machine.peer, p)
		if item == nil {
			return nil, r.blame(api.CulpritMachine, fmt.Errorf("it is not known to keep %s", p))
		}
		s.Bytes += item.Info.NARSize
		s.NARHashes[p] = item.Info.NARHash
	}
	if s.Bytes < 0 || s.Bytes > hookapi.MaxShipment {
		return nil, r.blame(api.CulpritMachine, fmt.Errorf("its outputs have %d bytes: want at most %d", s.Bytes, int64(hookapi.MaxShipment)))
	}
	err = r.persist(r.ctx, r.machine.peer, func(ctx context.Context) error {
		n, err := r.to.ship(ctx, r.machine, s, wanted)
		r.fetched.Add(n)
		return err
	})
	if r.to.ctx.Err() != nil {
		err = errHookGone
	}
	return &outcome{}, err
}

// delivered ends a build whose hook has the outputs.
func (r *attempt) delivered(l *loop) {
	t := r.task
	if l.builds[r.deliver.ID] == r.deliver {
		r.deliver.leave(l, api.Succeeded, "guix-daemon has the outputs")
	}
	if len(t.builds) > 0 {
		t.bring(l)
		return
	}
	t.state = api.Succeeded
	t.releaseInputs(l)
	t.dropUnneeded(l)
}

// ---- the conversation about one build -----------------------------------------------------

// delivery is the conversation with the hook that waits for one build.
type delivery struct {
	c          *Coordinator
	id         string
	user       HookUser
	logAttempt int // what the hook has of which log when the conversation begins
	logOffset  int64
	ctx        context.Context // ends with the conversation
	cancel     context.CancelCauseFunc
	mail       *mailbox.Mailbox[any] // *api.Build and openLog

	group sync.WaitGroup // every goroutine of the conversation

	writing   sync.Mutex
	conn      net.Conn
	last      hookapi.Progress     // that was written
	shipments int                  // that were announced
	receipt   chan hookapi.Receipt // for the last of them; has room for one
}

// openLog says that a log can be read.
type openLog struct {
	id      string
	attempt int
}

// errHookGone is the cause of the end of what was for a hook that is gone.
const errHookGone = peer.Ended("the build hook of guix-daemon is gone")

// tell tells the hook how its build stands. It never blocks.
func (d *delivery) tell(b *api.Build) {
	copied := *b
	d.mail.Put(&copied)
}

func (d *delivery) write(kind hookapi.Kind, v any) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return hookapi.WriteJSON(d.conn, kind, v)
}

func (d *delivery) writeState(p hookapi.Progress) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.last = p
	return hookapi.WriteJSON(d.conn, hookapi.State, p)
}

// repeat tells the hook again how its build stands, as long as the loop goes on: that is
// how the hook knows of it.
func (d *delivery) repeat(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-d.ctx.Done():
			return
		}
		if d.c.do(d.ctx, func(l *loop) {}) != nil {
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

func (d *delivery) writeBytes(kind hookapi.Kind, p []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	return hookapi.Write(d.conn, kind, p)
}

// announce begins a shipment, numbers it, and ends an earlier one. It returns where the
// receipt arrives.
func (d *delivery) announce(s *hookapi.Shipment) (<-chan hookapi.Receipt, error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	d.shipments++
	d.receipt = make(chan hookapi.Receipt, 1)
	s.Number = d.shipments
	return d.receipt, hookapi.WriteJSON(d.conn, hookapi.Transfer, s)
}

// errVoid says that another shipment was announced.
var errVoid = errors.New("the shipment is void")

// writeShipment writes a frame of a shipment.
func (d *delivery) writeShipment(shipment int, kind hookapi.Kind, p []byte) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.shipments != shipment {
		return errVoid
	}
	return hookapi.Write(d.conn, kind, p)
}

// took passes on what the hook says of a shipment, unless that is void.
func (d *delivery) took(r hookapi.Receipt) error {
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
		return hookapi.ErrFrame // it is there already
	}
}

// read takes the hook's receipts until it is gone.
func (d *delivery) read(r *hookapi.Reader) error {
	for {
		kind, payload, err := r.Next()
		if err != nil {
			return errHookGone
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

// report tells the hook what happens until the build is final.
func (d *delivery) report() error {
	var logged chan struct{} // closed when the log was copied
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
					return d.write(hookapi.Final, resultOf(m))
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

func resultOf(b *api.Build) hookapi.Result {
	return hookapi.Result{State: b.State, Machine: b.Machine, Reason: b.Reason, Failure: b.Failure}
}

// awaitLog waits until what was logged before a build ended is with the hook.
func (d *delivery) awaitLog(logged <-chan struct{}) {
	if logged == nil {
		return
	}
	select {
	case <-logged:
	case <-d.ctx.Done():
	}
}

// copyLog copies a log to the hook, after the one before it.
func (d *delivery) copyLog(before <-chan struct{}, l openLog) {
	d.awaitLog(before)
	var offset int64
	if l.attempt == d.logAttempt {
		offset = d.logOffset
	}
	// A log that is lost is no reason to end a build.
	if err := d.c.logs.CopyTo(d.ctx, logFrames{d}, l.id, l.attempt, offset, true, nil); err != nil && !errors.Is(err, buildlog.ErrNoLog) && d.ctx.Err() == nil {
		d.c.log.Warn("the log of an offloaded build was not passed on", "build", d.id, "err", err)
	}
}

// logFrames is a writer that makes frames.
type logFrames struct{ d *delivery }

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

// ship sends an archive of items from the machine to the hook, unread, and waits for
// what the hook says of it. It returns how many bytes went.
func (d *delivery) ship(ctx context.Context, m *machine, s hookapi.Shipment, items []store.Path) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(d.ctx, func() { cancel(errHookGone) })() //nolint:contextcheck // it is another's
	body, err := m.peer.Client.Export(ctx, items)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	receipts, err := d.announce(&s)
	if err != nil {
		return 0, errHookGone
	}
	buf := shipBuffers.Get().(*[hookapi.MaxChunk]byte)
	defer shipBuffers.Put(buf)
	var shipped int64
	for {
		n, err := body.Read(buf[:])
		if n > 0 && d.writeShipment(s.Number, hookapi.Archive, buf[:n]) != nil {
			return shipped, errHookGone
		}
		shipped += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return shipped, err
		}
	}
	if d.writeShipment(s.Number, hookapi.End, nil) != nil {
		return shipped, errHookGone
	}
	select {
	case receipt := <-receipts:
		return shipped, d.verdict(ctx, m, receipt)
	case <-ctx.Done():
		return shipped, context.Cause(ctx)
	}
}

// verdict says whom to blame for outputs that did not arrive as they should.
func (d *delivery) verdict(ctx context.Context, m *machine, r hookapi.Receipt) error {
	switch {
	case r.Error == "":
		return nil
	case r.Local:
		<-ctx.Done() // the hook ends now
		return context.Cause(ctx)
	}
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Fetching, Machine: m.Name, Message: "its archive of the outputs was refused: " + r.Error}
}
