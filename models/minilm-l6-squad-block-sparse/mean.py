import sys, torch, qalib
from qalib import load
from qalib.model import saving
out=sys.argv[1]; ms=[load(p) for p in sys.argv[2:]]
a=ms[0].copy(); sds=[m.model.state_dict() for m in ms]
a.model.load_state_dict({k: sum(s[k].float() for s in sds)/len(sds) if sds[0][k].is_floating_point() else sds[0][k] for k in sds[0]})
print([n for n in dir(saving) if n[0]!='_'])
a.meta=ms[0].meta
saving.save_packed(a,out)
