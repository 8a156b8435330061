package agentd

import (
	"lighter/nar/signature"
)

// Authorize has the agent's own store accept what is signed by one of the keys, from now on.
func (o *Options) Authorize(keys []*signature.PublicKey) error {
	p, err := o.place()
	if err != nil {
		return err
	}
	return p.Authorize(keys)
}

// Authorize adds keys to the ACL, unless all are in it.
func (f Folders) Authorize(keys []*signature.PublicKey) error {
	acl, err := signature.LoadACLIfAny(f.ACL())
	if err != nil {
		return err
	}
	known := true
	for _, key := range keys {
		known = known && acl.Authorized(key)
	}
	if known {
		return nil
	}
	return signature.UpdateACL(f.ACL(), func(acl *signature.ACL) error {
		for _, key := range keys {
			acl.Add(key)
		}
		return nil
	})
}
