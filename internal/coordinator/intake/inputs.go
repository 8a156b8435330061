package intake

import (
	"context"

	"github.com/google/uuid"

	"lighter/internal/api"
	"lighter/store"
)

// maxInputs bounds how many builds a request for all inputs makes.
const maxInputs = 1_000_000

// takeInputs makes builds of all derivations that the builds with AllInputs need.
func (in *Intake) takeInputs(ctx context.Context, answers []api.Submitted) error {
	seen := make(map[store.Path]bool)
	for i := range answers {
		if b := answers[i].Build; b != nil {
			seen[b.Derivation] = true
		}
	}
	for i := range answers {
		if b := answers[i].Build; b != nil && b.AllInputs {
			if err := in.takeInputsOf(ctx, b, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *Intake) takeInputsOf(ctx context.Context, parent *api.Build, seen map[store.Path]bool) error {
	namespace, err := uuid.Parse(parent.ID)
	if err != nil {
		return api.BadRequest("id %.60q is not a UUID", parent.ID)
	}
	var batch []api.Submitted
	work := []store.Path{parent.Derivation}
	for len(work) > 0 {
		n, err := in.Head.Node(ctx, work[len(work)-1])
		if err != nil {
			return err
		}
		work = work[:len(work)-1]
		for _, drv := range n.Inputs {
			if seen[drv] {
				continue
			}
			seen[drv] = true
			if len(seen) > maxInputs {
				return api.BadRequest("%s needs more than %d derivations", parent.Derivation, maxInputs)
			}
			work = append(work, drv)
			input, err := in.Head.Node(ctx, drv)
			if err != nil {
				return err
			}
			r := parent.Request
			// The same whenever this submission is repeated.
			r.ID = uuid.NewSHA1(namespace, []byte(drv)).String()
			r.Derivation, r.Outputs, r.AllInputs, r.SkipIfSubmitted, r.Check, r.On = drv, nil, false, true, 0, nil
			r.Attached = false // nobody knows its id
			batch = append(batch, api.Submitted{Build: in.newBuild(&r, input, parent.Submitter)})
			if len(batch) == api.MaxSubmit {
				if err := in.storeUnlessSubmitted(ctx, batch); err != nil {
					return err
				}
				batch = nil
			}
		}
	}
	return in.storeUnlessSubmitted(ctx, batch)
}
