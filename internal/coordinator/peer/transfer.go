package peer

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lighter/internal/agentapi"
	"lighter/internal/api"
	"lighter/internal/coordinator/headstore"
	"lighter/internal/machinetest"
	"lighter/store"
)

// streamBuffer is the size of the buffer between the head's store and a stream.
const streamBuffer = 256 << 10

var streamBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, streamBuffer) }}

// errImportEnded is what the export sees when the machine takes no more of it.
var errImportEnded = errors.New("the machine ended the import")

// send is the move of a machine's sending lane: one archive of items goes from the
// head's store into the request's body as it is read.
func (p *Peer) send(ctx context.Context, batch []*store.Info) (err error) {
	tr := p.config.Transfers.start(p.Name(), api.Send, batch, &p.Bandwidth)
	defer func() { p.config.Transfers.end(tr, err == nil) }()
	paths := store.PathsOf(batch)
	r, w := io.Pipe()
	defer r.CloseWithError(errImportEnded) // whatever happens, this ends the export
	exported := make(chan error, 1)
	go func() {
		buffered := streamBuffers.Get().(*bufio.Writer)
		buffered.Reset(countingWriter{w, tr})
		defer func() {
			buffered.Reset(nil)
			streamBuffers.Put(buffered)
		}()
		err := p.config.Head.Export(ctx, buffered, paths)
		if err == nil {
			err = buffered.Flush()
		}
		w.CloseWithError(err)
		exported <- err
	}()
	_, err = p.Client.Import(ctx, r)
	r.CloseWithError(errImportEnded)
	exportErr := <-exported
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case exportErr != nil && !errors.Is(exportErr, errImportEnded) && !errors.Is(exportErr, io.ErrClosedPipe):
		return p.exportError(ctx, paths, exportErr)
	case err != nil:
		return p.importError(batch, err)
	}
	return nil
}

// exportError says which items could not be read from the head's store.
func (p *Peer) exportError(ctx context.Context, paths []store.Path, err error) error {
	if absent, e := store.Missing(ctx, p.config.Head.Backend, paths); e == nil && len(absent) > 0 {
		return &headstore.LostError{Paths: absent, Why: "no longer in the head's store: " + err.Error()}
	}
	return &headstore.Error{Err: fmt.Errorf("export: %w", err)}
}

func (p *Peer) importError(batch []*store.Info, err error) error {
	var answer *agentapi.Error
	if !errors.As(err, &answer) {
		return err
	}
	return &api.Failure{
		Culprit: api.CulpritMachine, Phase: api.Sending, Machine: p.Name(),
		Message: fmt.Sprintf("import of %s there: %s%s", describe(batch), answer.Message, p.Hint(answer)),
	}
}

// describe names items for people.
func describe(batch []*store.Info) string {
	if len(batch) == 1 {
		return batch[0].Path.String()
	}
	return fmt.Sprintf("%s and %d more", batch[0].Path, len(batch)-1)
}

// errNotAsked and errOther say why an item is refused: it was not asked for, or it is not as the
// machine that made it described it.
var (
	errNotAsked = errors.New("it was not asked for")
	errOther    = errors.New("it is not what the machine said that it made")
)

// fetch is the move of a machine's fetching lane: one archive goes from the answer's
// body into the head's store, which checks every item before it becomes visible.
func (p *Peer) fetch(ctx context.Context, batch []*store.Info) (err error) {
	if err := p.config.Room(ctx); err != nil {
		return err
	}
	tr := p.config.Transfers.start(p.Name(), api.Fetch, batch, &p.FetchBandwidth)
	defer func() { p.config.Transfers.end(tr, err == nil) }()
	asked := make(map[store.Path]*store.Info, len(batch))
	for _, info := range batch {
		asked[info.Path] = info
	}
	body, err := p.Client.Export(ctx, store.PathsOf(batch))
	if err != nil {
		return err
	}
	defer body.Close()
	stream := &countingReader{r: body, counts: tr, left: archiveSize(batch)}
	infos, err := p.config.Head.Import(ctx, stream, store.ImportOptions{Accept: func(info *store.Info) error {
		want := asked[info.Path]
		if want == nil {
			return fmt.Errorf("%s: %w", info.Path, errNotAsked)
		}
		if what := want.Difference(info); what != "" {
			return fmt.Errorf("%s: %w: %s", info.Path, errOther, what)
		}
		return nil
	}})
	p.config.Head.Remember(infos...)
	if err != nil {
		return p.refused(ctx, stream, batch, err)
	}
	for _, info := range infos {
		delete(asked, info.Path)
	}
	for path := range asked {
		return p.fetchFailure(fmt.Errorf("its archive lacks %s", path))
	}
	return nil
}

// refused says who is to blame for an archive that the head's store refused.
func (p *Peer) refused(ctx context.Context, stream *countingReader, batch []*store.Info, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case stream.err != nil:
		return stream.err // the link broke in the middle
	case errors.Is(err, store.ErrUnauthorized):
		return p.fetchFailure(fmt.Errorf("%s: %w (authorize its key: %s)", describe(batch), err, machinetest.AuthorizeMachine(p.Name(), p.config.Hint)))
	case errors.Is(err, errNotAsked), errors.Is(err, errOther):
		f := p.fetchFailure(err)
		f.Kind = api.KindFault
		return f
	case errors.Is(err, store.ErrCorrupt):
		return p.fetchFailure(fmt.Errorf("%s: %w", describe(batch), err))
	}
	return &headstore.Error{Err: fmt.Errorf("import %s: %w", describe(batch), err)}
}

func (p *Peer) fetchFailure(err error) *api.Failure {
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Fetching, Machine: p.Name(), Message: err.Error()}
}

// Transfers has the streams that are under way, and counts bytes.
type Transfers struct {
	mu    sync.Mutex
	all   map[*transfer]struct{}
	total map[Moved]int64 // bytes of those that are over
}

// Moved names a machine and a direction.
type Moved struct {
	Machine   string
	Direction api.Direction
}

type transfer struct {
	api.Transfer
	bytes     atomic.Int64
	bandwidth *Bandwidth // that it is a measurement of
}

// count notes that bytes have moved.
func (tr *transfer) count(n int) {
	tr.bytes.Add(int64(n))
	tr.bandwidth.Moved(n)
}

// NewTransfers returns a Transfers without any.
func NewTransfers() *Transfers {
	return &Transfers{all: make(map[*transfer]struct{}), total: make(map[Moved]int64)}
}

func (t *Transfers) start(machine string, direction api.Direction, batch []*store.Info, of *Bandwidth) *transfer {
	now := time.Now()
	tr := &transfer{bandwidth: of, Transfer: api.Transfer{
		Machine: machine, Direction: direction, Items: len(batch), Started: now,
	}}
	for _, info := range batch {
		tr.Total += info.NARSize
	}
	of.Start(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[tr] = struct{}{}
	return tr
}

func (t *Transfers) end(tr *transfer, ok bool) {
	tr.bandwidth.End(time.Now(), ok)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, tr)
	t.total[Moved{tr.Machine, tr.Direction}] += tr.bytes.Load()
}

// Totals returns the bytes that have been moved since the start.
func (t *Transfers) Totals() map[Moved]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := maps.Clone(t.total)
	for tr := range t.all {
		sums[Moved{tr.Machine, tr.Direction}] += tr.bytes.Load()
	}
	return sums
}

// None reports whether nothing moves to or from a machine.
func (t *Transfers) None(machine string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tr := range t.all {
		if tr.Machine == machine {
			return false
		}
	}
	return true
}

// List returns the transfers under way, the oldest first.
func (t *Transfers) List() []api.Transfer {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]api.Transfer, 0, len(t.all))
	for tr := range t.all {
		one := tr.Transfer
		one.Bytes = tr.bytes.Load()
		list = append(list, one)
	}
	slices.SortFunc(list, func(a, b api.Transfer) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Machine, b.Machine))
	})
	return list
}

type countingWriter struct {
	w      io.Writer
	counts *transfer
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.counts.count(n)
	return n, err
}

// archiveSize returns how many bytes an archive of items may have: their NARs as announced, and with
// each its path, references, deriver and signature.
func archiveSize(batch []*store.Info) (sum int64) {
	const perItem, perReference = 16 << 10, 300
	for _, info := range batch {
		sum += info.NARSize + perItem + perReference*int64(len(info.References))
	}
	return sum
}

// countingReader counts bytes, fails if there are more than announced, and remembers how reading
// failed.
type countingReader struct {
	r      io.Reader
	counts *transfer
	left   int64 // bytes that may still come
	err    error // how reading failed; not io.EOF
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.counts.count(n)
	if c.left -= int64(n); c.left < 0 {
		err = &agentapi.Fault{Request: "export", Problem: "an item is larger than announced"}
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
