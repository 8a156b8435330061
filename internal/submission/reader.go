package submission

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/internal/human"
	"lighter/internal/jsonerror"
	"lighter/internal/quantity"
	"lighter/internal/tomlfile"
	"lighter/store"
)

// space is that of ids that follow from what is submitted.
var space = uuid.MustParse("6f0d1c0e-6c0a-4a52-9d0c-9d2f4f6f8f57")

// BuildID returns the id of the build of a derivation in the submission of that name. It
// is always the same, so that submitting again gets the builds that are there.
func BuildID(name string, drv store.Path) string {
	return uuid.NewSHA1(space, []byte(name+"\x00"+string(drv))).String()
}

// Reader makes requests of what a person gives: arguments, or lines of a stream.
// A line is the path of a derivation, or a JSON object with the fields of api.Request.
type Reader struct {
	// Base has what holds for all requests. A line's own fields go before it; its tags
	// are added to those of Base.
	Base api.Request
	// Submission, if any, gives each request without an id the one of BuildID, and each without a tag
	// api.SubmissionTag that tag.
	Submission string
	// Supersede, if any, is the tag by which the submission supersedes others. No line may
	// then have another value of a tag of Base.
	Supersede string
	// Derivation finds the path that an argument, or a line that is not JSON, means. Nil
	// takes nothing but store paths.
	Derivation func(ctx context.Context, arg string) (store.Path, error)
	// Repeated counts requests that were left out because they were there before.
	Repeated int

	seen map[string]seen // by what tells requests apart
	hash maphash.Seed
}

type seen struct {
	where string
	sum   uint64
}

// maxLine bounds a line of a stream of requests, in bytes.
const maxLine = 1 << 20

// All returns the requests of arguments, in order. A "-" among them stands for the lines
// of in. Nothing is read before it is asked for. The sequence ends with the first error,
// which says where it is.
func (r *Reader) All(ctx context.Context, args []string, in io.Reader) iter.Seq2[api.Request, error] {
	return func(yield func(api.Request, error) bool) {
		for _, arg := range args {
			if arg == "-" {
				if !r.lines(ctx, in, yield) {
					return
				}
				continue
			}
			if !r.one(ctx, arg, arg, yield) {
				return
			}
		}
	}
}

func (r *Reader) lines(ctx context.Context, in io.Reader, yield func(api.Request, error) bool) bool {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line != "" && !r.one(ctx, fmt.Sprintf("standard input, line %d", n), line, yield) {
			return false
		}
	}
	err := lines.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		err = &human.InputError{Err: fmt.Errorf("standard input, line %d: longer than %s", n+1, quantity.Bytes(maxLine))}
	case err != nil:
		err = fmt.Errorf("read standard input: %w", err)
	default:
		return true
	}
	yield(api.Request{}, err)
	return false
}

// one yields the request of an argument or a line, unless it was there before.
func (r *Reader) one(ctx context.Context, where, text string, yield func(api.Request, error) bool) bool {
	request, err := r.parse(ctx, where, text)
	if err == nil {
		var repeated bool
		if repeated, err = r.repeated(where, &request); repeated {
			r.Repeated++
			return true
		}
	}
	if err != nil {
		yield(api.Request{}, err)
		return false
	}
	return yield(request, nil)
}

func (r *Reader) parse(ctx context.Context, where, text string) (api.Request, error) {
	request := ownRequest(r.Base)
	if strings.HasPrefix(text, "{") {
		err := parseRequest(text, &request)
		if err == nil {
			err = r.check(&request)
		}
		if err != nil {
			return request, &human.InputError{Err: fmt.Errorf("%s: %w", where, err)}
		}
	} else {
		find := r.Derivation
		if find == nil {
			find = storePath
		}
		path, err := find(ctx, text)
		if err != nil {
			if where != text { // which the error has
				err = fmt.Errorf("%s: %w", where, err)
			}
			return request, err
		}
		request.Derivation = path
	}
	if r.Submission != "" {
		r.name(&request)
	}
	return request, nil
}

// name gives a request the id and the tag of the submission, unless it has others. A name that can't be the value
// of a tag is no error: earlier versions made ids of any.
func (r *Reader) name(request *api.Request) {
	if request.ID == "" {
		request.ID = BuildID(r.Submission, request.Derivation)
	}
	if _, has := request.Tags[api.SubmissionTag]; has || len(request.Tags) == api.MaxTags {
		return
	}
	if tag := map[string]string{api.SubmissionTag: r.Submission}; api.CheckTags(tag) == nil {
		maps.Copy(tag, request.Tags)
		request.Tags = tag
	}
}

// ownRequest returns a copy that shares nothing with r.
func ownRequest(r api.Request) api.Request {
	r.Tags, r.Tokens = maps.Clone(r.Tags), maps.Clone(r.Tokens)
	r.Outputs, r.On, r.Skip = slices.Clone(r.Outputs), slices.Clone(r.On), slices.Clone(r.Skip)
	r.DerivationSubstituteURLs = slices.Clone(r.DerivationSubstituteURLs)
	return r
}

// parseRequest reads a JSON object over what request has.
func parseRequest(text string, request *api.Request) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	switch err := d.Decode(request); {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON object does not end on its line")
	case err != nil:
		return jsonerror.ExplainInto(err, request, tomlfile.Nearest)
	case d.More():
		return errors.New("there is more after the JSON object")
	case request.Offload:
		return errors.New(`"offload" is for guix-daemon's build hook alone`)
	case request.Derivation == "":
		return errors.New(`"derivation" is missing`)
	}
	return checkDerivation(request.Derivation)
}

func storePath(_ context.Context, arg string) (store.Path, error) {
	path, err := store.ParsePath(arg)
	if err == nil {
		err = checkDerivation(path)
	}
	if err != nil {
		err = &human.InputError{Err: err}
	}
	return path, err
}

func checkDerivation(p store.Path) error {
	if _, err := store.ParsePath(string(p)); err != nil {
		return err
	}
	if !p.IsDerivation() {
		return fmt.Errorf("%s: no derivation; its name does not end in .drv", p)
	}
	return nil
}

// check says what is wrong with the request of a line.
func (r *Reader) check(request *api.Request) error {
	err := Check(request)
	for k, v := range r.Base.Tags {
		if r.Supersede != "" && request.Tags[k] != v {
			err = errors.Join(err, fmt.Errorf("tag %s is %q here and %q in the flags, by which --supersede goes", k, request.Tags[k], v))
		}
	}
	return err
}

// NoRetries in a request says that there are none; 0 leaves it to the coordinator.
const NoRetries = -1

// Check says what is wrong with a request in itself, but for its derivation.
func Check(r *api.Request) error {
	switch {
	case r.Timeout < 0 || r.MaxSilentTime < 0:
		return errors.New("a time limit can't be negative")
	case r.Retries < NoRetries:
		return errors.New("retries can't be negative")
	case r.Check < 0:
		return errors.New("the number of machines of a check can't be negative")
	case r.ID != "" && uuid.Validate(r.ID) != nil:
		return fmt.Errorf("id %q: want a UUID, such as %s", r.ID, uuid.NewString())
	}
	if r.Memory != 0 && (r.Memory < api.MinMemory || r.Memory > api.MaxMemory) {
		return fmt.Errorf("memory of %s: want %s to %s", quantity.Bytes(r.Memory), quantity.Bytes(api.MinMemory), quantity.Bytes(api.MaxMemory))
	}
	if err := api.CheckTokens(r.Tokens); err != nil {
		return err
	}
	for _, name := range r.On {
		if slices.Contains(r.Skip, name) {
			return fmt.Errorf("machine %s is both the one to build on and one to skip", name)
		}
	}
	return nil
}

// repeated reports whether the same request was there before. In a submission with a
// name, or with an id, another request for the same build is an error.
func (r *Reader) repeated(where string, request *api.Request) (bool, error) {
	if r.seen == nil {
		r.seen, r.hash = make(map[string]seen), maphash.MakeSeed()
	}
	text, err := json.Marshal(request)
	if err != nil {
		return false, fmt.Errorf("%s: %w", where, err)
	}
	sum := maphash.Bytes(r.hash, text)
	key := request.ID
	if key == "" {
		key = string(request.Derivation)
	}
	old, there := r.seen[key]
	switch {
	case there && old.sum == sum:
		return true, nil
	case there && request.ID != "":
		return false, &human.InputError{Err: fmt.Errorf("%s: the build %s was asked for before, with other options, at %s", where, request.ID, old.where)}
	}
	r.seen[key] = seen{where, sum}
	return false, nil
}
