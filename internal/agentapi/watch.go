package agentapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// watch ends a request whose agent makes it wait for too long. Only what the agent makes it
// wait for counts, not how long this side takes to give or to take the next bytes.
type watch struct {
	request string
	limits  Limits
	end     context.CancelCauseFunc

	mu     sync.Mutex
	timer  *time.Timer
	since  time.Time     // when the waiting began; zero if it has not
	waited time.Duration // before that
	moved  int64         // bytes
	over   bool
}

// newWatch waits for the start of an answer, for longer by extra than what the limits say.
func newWatch(request string, l Limits, extra time.Duration, end context.CancelCauseFunc) *watch {
	w := &watch{request: request, limits: l, end: end}
	w.waitFor(l.Answer+extra, "there is no answer")
	return w
}

func (w *watch) waitFor(limit time.Duration, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return // the request's body is still read for a moment
	}
	if w.timer != nil {
		w.timer.Stop()
	}
	w.since = time.Now()
	w.timer = time.AfterFunc(limit, func() {
		w.end(&Fault{Request: w.request, Problem: fmt.Sprintf("%s after %s", what, limit)})
	})
}

// wait begins to wait for the agent to take or give bytes.
func (w *watch) wait(what string) {
	w.mu.Lock()
	left := w.limits.Answer - w.waited + time.Duration(float64(w.moved)/float64(w.limits.Rate)*float64(time.Second))
	w.mu.Unlock()
	w.waitFor(max(min(left, w.limits.Answer), 0), what)
}

// rest ends the waiting: n bytes came or went.
func (w *watch) rest(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	if !w.since.IsZero() {
		w.waited += time.Since(w.since)
		w.since = time.Time{}
	}
	w.moved += int64(n)
}

// answered is rest for what was asked, whose time does not count for what comes.
func (w *watch) answered() {
	w.rest(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waited, w.moved = 0, 0
}

// close ends the watch.
func (w *watch) close() {
	w.rest(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

// answer is what an agent answers with. Its holder closes it.
type answer struct {
	request string
	header  *http.Response
	body    io.Reader
	ctx     context.Context // of the request, which says why it ended
	watch   *watch
	end     context.CancelCauseFunc
	free    bool // the body may stand still
}

func (a *answer) Read(p []byte) (int, error) {
	if !a.free {
		a.watch.wait("the answer stands still, or nearly")
	}
	n, err := a.body.Read(p)
	a.watch.rest(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = linkFailure(a.ctx, err)
	}
	return n, err
}

// Close ends the request.
func (a *answer) Close() error {
	a.watch.close()
	err := a.header.Body.Close()
	a.end(nil)
	return err
}

// failure says what is wrong with the answer, as the error says that reading it led to.
func (a *answer) failure(err error) error {
	var broken *transportError
	if errors.As(err, &broken) {
		return broken.err
	}
	return fault(a.request, err)
}

// requestBody is what is sent. The watch runs while the agent does not ask for more.
type requestBody struct {
	io.Reader
	watch *watch
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.watch.rest(0)
	n, err := b.Reader.Read(p)
	b.watch.rest(n)
	if err == nil {
		b.watch.wait("it takes no more of what is sent, or nearly")
	} else {
		b.watch.waitFor(b.watch.limits.Answer, "there is no answer")
	}
	return n, err
}
