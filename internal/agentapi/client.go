package agentapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lighter/store"
)

// Limits on what a client believes of an agent: the machine is not the head's.
const (
	maxAnswer = 256 << 20 // bytes of a JSON answer
	maxError  = 64 << 10  // bytes of an error's body
)

// How connections to an agent are kept. Each is a stream of an SSH connection that is
// there anyway, so keeping some costs little.
const (
	idleStreams       = 32
	idleStreamTimeout = time.Minute
	streamBuffer      = 64 << 10 // bytes, each way
)

// Client talks to one agent. Its methods may be called from several goroutines at the
// same time. An error that the agent answered with is an *Error; any other means that
// the way to it failed, or that the context ended.
type Client struct {
	transport *http.Transport
	http      *http.Client
}

// NewClient returns a client that reaches the agent by dial. It connects when it is
// first used.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: idleStreams,
		IdleConnTimeout:     idleStreamTimeout,
		DisableCompression:  true,
		ReadBufferSize:      streamBuffer,
		WriteBufferSize:     streamBuffer,
	}
	return &Client{transport: t, http: &http.Client{Transport: t}}
}

// Close ends the streams that are not in use.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Machine asks what the machine is.
func (c *Client) Machine(ctx context.Context) (*Machine, error) {
	return exchange[Machine](ctx, c, http.MethodGet, "/v1/machine", nil)
}

// Builds lists all builds that the agent knows.
func (c *Client) Builds(ctx context.Context) ([]BuildStatus, error) {
	list, err := exchange[[]BuildStatus](ctx, c, http.MethodGet, "/v1/builds", nil)
	if err != nil {
		return nil, err
	}
	return *list, nil
}

// PutBuild has the agent root the inputs of a build and start it if none is missing.
func (c *Client) PutBuild(ctx context.Context, id string, req *BuildRequest) (*BuildStatus, error) {
	return exchange[BuildStatus](ctx, c, http.MethodPut, buildURL(id), req)
}

// Build returns the state of a build.
func (c *Client) Build(ctx context.Context, id string) (*BuildStatus, error) {
	return exchange[BuildStatus](ctx, c, http.MethodGet, buildURL(id), nil)
}

// DeleteBuild cancels a build if it runs, and has the agent forget it.
func (c *Client) DeleteBuild(ctx context.Context, id string) error {
	resp, err := c.do(ctx, http.MethodDelete, buildURL(id), "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// What is read to its end leaves the stream for the next request.
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxError))
	return err
}

// Log copies a build's log, from an offset in bytes to its end, to w as it is written,
// and returns the final state. A log that breaks off is an error.
func (c *Client) Log(ctx context.Context, id string, offset int64, w io.Writer) (*BuildStatus, error) {
	path := buildURL(id) + "/log?offset=" + strconv.FormatInt(offset, 10)
	resp, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return nil, cause(ctx, fmt.Errorf("log of build %s: %w", id, err))
	}
	trailer := resp.Trailer.Get(LogTrailer)
	if trailer == "" {
		return nil, fmt.Errorf("log of build %s: %w", id, io.ErrUnexpectedEOF)
	}
	status := new(BuildStatus)
	if err := json.Unmarshal([]byte(trailer), status); err != nil {
		return nil, fmt.Errorf("log of build %s: trailer %s: %w", id, LogTrailer, err)
	}
	if status.Partial {
		return c.Build(ctx, id)
	}
	return status, nil
}

// Output returns what a check made, as a NAR that ends in an error if it was not sent
// completely. The caller closes it.
func (c *Client) Output(ctx context.Context, id, output string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, buildURL(id)+"/outputs/"+url.PathEscape(output), "", nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func buildURL(id string) string { return "/v1/builds/" + url.PathEscape(id) }

// Missing returns those of the items that the agent's store lacks.
func (c *Client) Missing(ctx context.Context, paths []store.Path) ([]store.Path, error) {
	answer, err := exchange[Paths](ctx, c, http.MethodPost, "/v1/missing", Paths{paths})
	if err != nil {
		return nil, err
	}
	return answer.Paths, nil
}

// Closure returns what the agent's store knows of the items and all that they refer to.
func (c *Client) Closure(ctx context.Context, paths []store.Path) ([]*store.Info, error) {
	answer, err := exchange[Infos](ctx, c, http.MethodPost, "/v1/closure", Paths{paths})
	if err != nil {
		return nil, err
	}
	return infos(answer)
}

// Import sends an archive and returns what it held. It reads archive while it runs, and
// perhaps for a moment after it returned with an error; it does not close it.
func (c *Client) Import(ctx context.Context, archive io.Reader) ([]*store.Info, error) {
	resp, err := c.do(ctx, http.MethodPost, "/v1/import", ArchiveType, struct{ io.Reader }{archive})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := decode[Infos](ctx, resp)
	if err != nil {
		return nil, err
	}
	return infos(answer)
}

// Export asks for an archive of items, references first. The caller closes it.
func (c *Client) Export(ctx context.Context, paths []store.Path) (io.ReadCloser, error) {
	text, err := json.Marshal(Paths{paths})
	if err != nil {
		return nil, err
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/export", jsonType, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// AddText adds a file with the given contents to the agent's store. Nothing roots it.
func (c *Client) AddText(ctx context.Context, name string, content []byte) (*store.Info, error) {
	return exchange[store.Info](ctx, c, http.MethodPost, "/v1/add-text", AddTextRequest{name, content})
}

// CollectGarbage deletes what nothing needs from the agent's store.
func (c *Client) CollectGarbage(ctx context.Context, req *GCRequest) (*GCResult, error) {
	return exchange[GCResult](ctx, c, http.MethodPost, "/v1/gc", req)
}

const jsonType = "application/json"

// infos refuses an answer in which JSON's null stands for an item.
func infos(answer *Infos) ([]*store.Info, error) {
	for _, info := range answer.Infos {
		if info == nil {
			return nil, &Error{Message: "the agent's answer has an item that is none"}
		}
	}
	return answer.Infos, nil
}

func exchange[T any](ctx context.Context, c *Client, method, path string, body any) (*T, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", method, path, err)
		}
		reader = bytes.NewReader(text)
	}
	resp, err := c.do(ctx, method, path, jsonType, reader)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return decode[T](ctx, resp)
}

// decode reads an answer.
func decode[T any](ctx context.Context, resp *http.Response) (*T, error) {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, cause(ctx, fmt.Errorf("%s: %w", resp.Request.URL.Path, err))
	}
	answer := new(T)
	if len(text) > maxAnswer {
		return nil, &Error{Message: fmt.Sprintf("%s: the agent's answer has more than %d bytes", resp.Request.URL.Path, maxAnswer)}
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return nil, &Error{Message: fmt.Sprintf("%s: the agent's answer: %v", resp.Request.URL.Path, err)}
	}
	return answer, nil
}

// do returns an answer with a status below 400, whose body the caller closes.
func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if e := errors.Unwrap(err); e != nil {
			err = e // without the URL that means nothing to people
		}
		return nil, cause(ctx, err)
	}
	if resp.StatusCode < http.StatusBadRequest {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(ctx, resp)
}

// cause returns why the context ended, if it did, instead of what that led to.
func cause(ctx context.Context, err error) error {
	if ended := context.Cause(ctx); ended != nil {
		return ended
	}
	return err
}

func readError(ctx context.Context, resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return cause(ctx, err)
	}
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(text, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("%s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	return e
}
