package coordinator

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

// errImportEnded is what the export sees when the other side takes no more of it.
var errImportEnded = errors.New("the machine ended the import")

// send is the move of a machine's sending lane: one archive of items goes from the
// head's store into the request's body as it is read.
func (m *machine) send(ctx context.Context, batch []*store.Info) error {
	tr := m.c.moving.start(m.Name, "send", batch)
	defer m.c.moving.end(tr)
	paths := pathsOf(batch)
	r, w := io.Pipe()
	defer r.CloseWithError(errImportEnded) // whatever happens: it ends the export
	exported := make(chan error, 1)
	go func() {
		buffered := streamBuffers.Get().(*bufio.Writer)
		buffered.Reset(countingWriter{w, &tr.bytes})
		defer func() {
			buffered.Reset(nil)
			streamBuffers.Put(buffered)
		}()
		err := m.c.head.Export(ctx, buffered, paths)
		if err == nil {
			err = buffered.Flush()
		}
		w.CloseWithError(err)
		exported <- err
	}()
	_, err := m.client.Import(ctx, r)
	r.CloseWithError(errImportEnded)
	exportErr := <-exported
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case exportErr != nil && !errors.Is(exportErr, errImportEnded) && !errors.Is(exportErr, io.ErrClosedPipe):
		return m.c.exportError(ctx, paths, exportErr)
	case err != nil:
		return m.importError(batch, err)
	}
	m.bandwidth.observe(tr.bytes.Load(), time.Since(tr.started))
	return nil
}

// exportError says which items could not be read from the head's store.
func (c *Coordinator) exportError(ctx context.Context, paths []store.Path, err error) error {
	if absent, e := store.Missing(ctx, c.head.Backend, paths); e == nil && len(absent) > 0 {
		return &inputsError{absent, "not at home any more: " + err.Error()}
	}
	return &headstore.Error{Err: fmt.Errorf("export: %w", err)}
}

func (m *machine) importError(batch []*store.Info, err error) error {
	var answer *agentapi.Error
	if !errors.As(err, &answer) {
		return err
	}
	return &api.Failure{
		Culprit: api.CulpritMachine, Phase: api.Sending, Machine: m.Name,
		Message: fmt.Sprintf("import of %s there: %s%s", describe(batch), answer.Message, m.hint(answer)),
	}
}

// describe names items for people.
func describe(batch []*store.Info) string {
	if len(batch) == 1 {
		return batch[0].Path.String()
	}
	return fmt.Sprintf("%s and %d more", batch[0].Path, len(batch)-1)
}

// errNotAsked and errOther are the reasons for which an item is refused that was not asked for,
// and one that is not what the machine which made it has said of it.
var (
	errNotAsked = errors.New("it was not asked for")
	errOther    = errors.New("it is not what was said to be made")
)

// difference says what of an item is other than it should be, or "".
func difference(want, got *store.Info) string {
	switch {
	case got.NARHash != want.NARHash:
		return fmt.Sprintf("hash %s instead of %s", got.NARHash, want.NARHash)
	case got.NARSize != want.NARSize:
		return fmt.Sprintf("%d bytes instead of %d", got.NARSize, want.NARSize)
	case !slices.Equal(got.References, want.References):
		return fmt.Sprintf("it refers to %d items, which are not the %d that it should refer to", len(got.References), len(want.References))
	case got.Deriver != want.Deriver:
		return fmt.Sprintf("deriver %q instead of %q", got.Deriver, want.Deriver)
	}
	return ""
}

// fetch is the move of a machine's fetching lane: one archive goes from the answer's
// body into the head's store, which checks every item before it becomes visible.
func (m *machine) fetch(ctx context.Context, batch []*store.Info) error {
	if err := m.c.room.wait(ctx); err != nil {
		return err
	}
	tr := m.c.moving.start(m.Name, "fetch", batch)
	defer m.c.moving.end(tr)
	asked := make(map[store.Path]*store.Info, len(batch))
	for _, info := range batch {
		asked[info.Path] = info
	}
	body, err := m.client.Export(ctx, pathsOf(batch))
	if err != nil {
		return err
	}
	defer body.Close()
	stream := &countingReader{r: body, bytes: &tr.bytes, left: archiveSize(batch)}
	infos, err := m.c.head.Import(ctx, stream, store.ImportOptions{Accept: func(info *store.Info) error {
		want := asked[info.Path]
		if want == nil {
			return fmt.Errorf("%s: %w", info.Path, errNotAsked)
		}
		if what := difference(want, info); what != "" {
			return fmt.Errorf("%s: %w: %s", info.Path, errOther, what)
		}
		return nil
	}})
	m.c.head.Remember(infos...)
	if err != nil {
		return m.refused(ctx, stream, batch, err)
	}
	for _, info := range infos {
		delete(asked, info.Path)
	}
	for p := range asked {
		return m.fetchFailure(fmt.Errorf("its archive lacks %s", p))
	}
	m.bandwidth.observe(tr.bytes.Load(), time.Since(tr.started))
	return nil
}

// refused says who is to blame for an archive that the head's store did not take.
func (m *machine) refused(ctx context.Context, stream *countingReader, batch []*store.Info, err error) error {
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case stream.err != nil:
		return stream.err // the link broke in the middle
	case errors.Is(err, store.ErrUnauthorized):
		return m.fetchFailure(fmt.Errorf("%s: %w (authorize its key: %s)", describe(batch), err, machinetest.AuthorizeMachine(m.Name, m.c.cfg.Advice.StoreKind)))
	case errors.Is(err, errNotAsked), errors.Is(err, errOther):
		f := m.fetchFailure(err)
		f.Kind = api.KindFault
		return f
	case errors.Is(err, store.ErrCorrupt):
		return m.fetchFailure(fmt.Errorf("%s: %w", describe(batch), err))
	}
	return &headstore.Error{Err: fmt.Errorf("import %s: %w", describe(batch), err)}
}

func (m *machine) fetchFailure(err error) *api.Failure {
	return &api.Failure{Culprit: api.CulpritMachine, Phase: api.Fetching, Machine: m.Name, Message: err.Error()}
}

// transfers has the streams that are under way.
type transfers struct {
	mu    sync.Mutex
	all   map[*transfer]struct{}
	total map[moved]int64 // bytes of those that are over
}

// moved names a machine and a direction.
type moved struct{ machine, direction string }

type transfer struct {
	api.Transfer
	bytes   atomic.Int64
	started time.Time
}

func newTransfers() *transfers {
	return &transfers{all: make(map[*transfer]struct{}), total: make(map[moved]int64)}
}

func (t *transfers) start(machine, direction string, batch []*store.Info) *transfer {
	now := time.Now()
	tr := &transfer{started: now, Transfer: api.Transfer{
		Machine: machine, Direction: direction, Items: len(batch), Started: now,
	}}
	for _, info := range batch {
		tr.Total += info.NARSize
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[tr] = struct{}{}
	return tr
}

func (t *transfers) end(tr *transfer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.all, tr)
	t.total[moved{tr.Machine, tr.Direction}] += tr.bytes.Load()
}

// totals returns the bytes that were moved since the start.
func (t *transfers) totals() map[moved]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	sums := maps.Clone(t.total)
	for tr := range t.all {
		sums[moved{tr.Machine, tr.Direction}] += tr.bytes.Load()
	}
	return sums
}

// none reports whether nothing moves to or from a machine.
func (t *transfers) none(machine string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for tr := range t.all {
		if tr.Machine == machine {
			return false
		}
	}
	return true
}

// list returns the transfers under way, the oldest first.
func (t *transfers) list() []api.Transfer {
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
	w     io.Writer
	bytes *atomic.Int64
}

func (c countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// archiveSize is how long an archive of items may be: their NARs as announced, and what
// goes with each: path, references, deriver and signature.
func archiveSize(batch []*store.Info) (sum int64) {
	const perItem, perReference = 16 << 10, 300
	for _, info := range batch {
		sum += info.NARSize + perItem + perReference*int64(len(info.References))
	}
	return sum
}

// countingReader counts, ends where more comes than was announced, and remembers how
// reading failed.
type countingReader struct {
	r     io.Reader
	bytes *atomic.Int64
	left  int64 // so many bytes may come
	err   error // that is not io.EOF
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.bytes.Add(int64(n))
	if c.left -= int64(n); c.left < 0 {
		err = &agentapi.Fault{Request: "export", Problem: "an item is larger than it said"}
	}
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}
