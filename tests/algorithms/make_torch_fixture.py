"""Write torch_fixture.json: meta-gradients of MAML and the other learners by plain torch autograd, in float64.

An oracle outside jax: the inner loop is written out by hand on lists of
tensors, with ``create_graph=True`` for second order and detached gradients for
first order. Where `higher` is installed, it is checked to agree.

    python tests/algorithms/make_torch_fixture.py    # torch 2.13.0, about 5 s

The numbers are stored as Python's shortest decimals, which read back exactly
as float64. The model is tanh(x W1 + b1) W2 + b2 with softmax cross-entropy; learners
that embed do so by tanh(x W1 + b1), and a context c adds c M inside the tanh.
"""

import json
from pathlib import Path

import torch
from torch.nn import functional

TASKS, SUPPORT, QUERY, FEATURES, HIDDEN, WAYS = 3, 6, 5, 4, 5, 3
NAMES = ("w1", "b1", "w2", "b2")
# Adam's b2 is 0.99: in float32, 1 - b2**count of optax is off by 1e-6 there, but by 1.3e-5 at 0.999, which
# alone would use up the float32 tolerance of the test.
OPTIMIZERS = {
    "sgd": {"rate": 0.3},
    "momentum": {"rate": 0.2, "decay": 0.9},
    "adam": {"rate": 0.05, "b1": 0.9, "b2": 0.99, "eps": 1e-8, "eps_root": 1e-6},
}
STEPS = (1, 5)

# What each learner is built with; rates that are learned are drawn in `learner_results`.
LEARNERS = {
    "meta_sgd": {"steps": 3},
    "anil": {"rate": 0.5, "steps": 3},
    "boil": {"rate": 0.5, "steps": 3},
    "maml_plus_plus": {"steps": 3, "weights": [0.25, 0.25, 0.5], "second_order": True},
    "maml_plus_plus_first_order": {"steps": 3, "weights": [0.25, 0.25, 0.5], "second_order": False},
    "cavia": {"rate": 1.0, "steps": 3, "context": 2},
    "proto_maml": {"rate": 0.2, "steps": 2},
    "protonet": {},
    "matching_network": {"temperature": 0.5},
    "r2d2": {},
    "imaml": {"rate": 0.2, "steps": 10, "proximal": 2.0},
    "reptile": {"rate": 0.3, "steps": 4},
}


def task_loss(params, x, label):
    w1, b1, w2, b2 = params
    return functional.cross_entropy(torch.tanh(x @ w1 + b1) @ w2 + b2, label)


def sgd_step(params, grads, state, rate):
    return [p - rate * g for p, g in zip(params, grads, strict=True)], state


def momentum_step(params, grads, state, rate, decay):
    trace = grads if state is None else [g + decay * m for g, m in zip(grads, state, strict=True)]
    return [p - rate * m for p, m in zip(params, trace, strict=True)], trace


def adam_step(params, grads, state, rate, b1, b2, eps, eps_root):
    if state is None:
        state = (0, [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params])
    count, first, second = state
    count += 1
    first = [b1 * m + (1 - b1) * g for m, g in zip(first, grads, strict=True)]
    second = [b2 * v + (1 - b2) * g * g for v, g in zip(second, grads, strict=True)]
    stepped = []
    for p, m, v in zip(params, first, second, strict=True):
        m_hat, v_hat = m / (1 - b1**count), v / (1 - b2**count)
        stepped.append(p - rate * m_hat / (torch.sqrt(v_hat + eps_root) + eps))
    return stepped, (count, first, second)


UPDATES = {"sgd": sgd_step, "momentum": momentum_step, "adam": adam_step}


def meta_gradient(params, tasks, optimizer, steps, second_order):
    """Mean query loss over tasks, its gradient, the query losses and the support losses."""
    start = [p.clone().requires_grad_() for p in params]
    query_losses, support_losses = [], []
    for support_x, support_label, query_x, query_label in tasks:
        adapted, state, losses = start, None, []
        for _ in range(steps):
            loss = task_loss(adapted, support_x, support_label)
            grads = torch.autograd.grad(loss, adapted, create_graph=second_order, retain_graph=True)
            if not second_order:
                grads = [g.detach() for g in grads]
            adapted, state = UPDATES[optimizer](adapted, list(grads), state, **OPTIMIZERS[optimizer])
            losses.append(loss.item())
        query_losses.append(task_loss(adapted, query_x, query_label))
        support_losses.append(losses)
    mean = torch.stack(query_losses).mean()
    grads = torch.autograd.grad(mean, start)
    return {
        "loss": mean.item(),
        "task_loss": [loss.item() for loss in query_losses],
        "support_loss": support_losses,
        "grads": {name: g.tolist() for name, g in zip(NAMES, grads, strict=True)},
    }


def embed(params, x):
    shift = params["b1"] + params["context"] @ params["mix"] if "context" in params else params["b1"]
    return torch.tanh(x @ params["w1"] + shift)


def loss_of(params, x, label):
    return functional.cross_entropy(embed(params, x) @ params["w2"] + params["b2"], label)


def descend(params, x, label, rates, second_order=True):
    """SGD on the leaves that each step's ``{name: rate}`` names: the parameters after each step, and the losses."""
    # Nodes of their own: a head made from the body is a variable of the inner loop beside it, not a function of it.
    params, after, losses = {name: p.clone() for name, p in params.items()}, [], []
    for step in rates:
        loss = loss_of(params, x, label)
        grads = torch.autograd.grad(loss, [params[name] for name in step], create_graph=True)
        grads = grads if second_order else [g.detach() for g in grads]
        params = params | {name: params[name] - step[name] * g for name, g in zip(step, grads, strict=True)}
        after.append(params)
        losses.append(loss.item())
    return after, losses


def descended(meta, task, rates, weights=(1.0,), second_order=True):
    """The query losses after the last steps, weighted, and the support losses."""
    support_x, support_label, query_x, query_label = task
    after, losses = descend(meta, support_x, support_label, rates, second_order)
    last = after[-len(weights) :]
    return sum(w * loss_of(p, query_x, query_label) for w, p in zip(weights, last, strict=True)), losses


def fixed(options, names):
    return [dict.fromkeys(names, options["rate"])] * options["steps"]


# A learner: (meta-parameters, a task, its options) -> (query loss, support losses).


def meta_sgd(meta, task, options):
    return descended(meta, task, [{name: meta[f"rate/{name}"] for name in NAMES}] * options["steps"])


def maml_plus_plus(meta, task, options):
    rates = [{name: meta[f"rate/{name}"][k] for name in NAMES} for k in range(options["steps"])]
    return descended(meta, task, rates, options["weights"], options["second_order"])


def anil(meta, task, options):
    return descended(meta, task, fixed(options, ("w2", "b2")))


def boil(meta, task, options):
    return descended(meta, task, fixed(options, ("w1", "b1")))


def cavia(meta, task, options):
    context = torch.zeros(options["context"], requires_grad=True)
    return descended(meta | {"context": context}, task, fixed(options, ("context",)))


def centres(meta, task):
    support_x, support_label, _, _ = task
    embedded = embed(meta, support_x)
    return torch.stack([embedded[support_label == n].mean(0) for n in range(WAYS)])


def proto_maml(meta, task, options):
    c = centres(meta, task)
    return descended(meta | {"w2": 2 * c.T, "b2": -(c * c).sum(1)}, task, fixed(options, NAMES))


def protonet(meta, task, options):
    _, _, query_x, query_label = task
    away = embed(meta, query_x)[:, None] - centres(meta, task)[None]
    return functional.cross_entropy(-(away**2).sum(2), query_label), []


def matching_network(meta, task, options):
    support_x, support_label, query_x, query_label = task
    # The package adds 1e-8 to the squared length, for a gradient at zero.
    support, query = (
        e / torch.sqrt((e**2).sum(1, keepdim=True) + 1e-8) for e in (embed(meta, support_x), embed(meta, query_x))
    )
    attention = torch.softmax(query @ support.T / options["temperature"], 1)
    probability = attention @ functional.one_hot(support_label, WAYS).to(attention)
    return -torch.log(probability[torch.arange(QUERY), query_label]).mean(), []


def r2d2(meta, task, options):
    """Equation 4 of the paper, in the space of the features."""
    support_x, support_label, query_x, query_label = task
    support, query = (torch.cat([embed(meta, x), torch.ones(len(x), 1)], 1) for x in (support_x, query_x))
    system = support.T @ support + torch.exp(meta["log_penalty"]) * torch.eye(HIDDEN + 1)
    weights = torch.linalg.solve(system, support.T @ functional.one_hot(support_label, WAYS).to(support))
    return functional.cross_entropy(torch.exp(meta["log_scale"]) * (query @ weights), query_label), []


def mean_over_tasks(learner, meta, tasks, options):
    meta = {name: p.clone().requires_grad_() for name, p in meta.items()}
    losses, support_losses = zip(*(learner(meta, task, options) for task in tasks), strict=True)
    mean = torch.stack(losses).mean()
    grads = torch.autograd.grad(mean, list(meta.values()))
    return summary(losses, support_losses, dict(zip(meta, grads, strict=True)))


def imaml(params, tasks, options):
    """Equation 6 of the paper, (I + H / lambda)^-1 grad L_q where the inner loop ends, by a dense solve."""
    start = torch.cat([params[name].ravel() for name in NAMES])

    def unflatten(flat):
        parts = torch.split(flat, [params[name].numel() for name in NAMES])
        return {name: part.reshape(params[name].shape) for name, part in zip(NAMES, parts, strict=True)}

    losses, support_losses, total = [], [], 0
    for support_x, support_label, query_x, query_label in tasks:
        phi, path = start.clone(), []
        for _ in range(options["steps"]):
            phi = phi.detach().requires_grad_()
            loss = loss_of(unflatten(phi), support_x, support_label)
            (grad,) = torch.autograd.grad(loss, phi)
            phi = phi - options["rate"] * (grad + options["proximal"] * (phi - start))
            path.append(loss.item())
        phi = phi.detach().requires_grad_()
        hessian = torch.autograd.functional.hessian(lambda p: loss_of(unflatten(p), support_x, support_label), phi)  # noqa: B023
        loss = loss_of(unflatten(phi), query_x, query_label)
        (grad,) = torch.autograd.grad(loss, phi)
        total = total + torch.linalg.solve(torch.eye(len(phi)) + hessian / options["proximal"], grad) / len(tasks)
        losses.append(loss)
        support_losses.append(path)
    return summary(losses, support_losses, unflatten(total))


def reptile(params, tasks, options):
    """Theta minus the mean of theta after the inner loop over all items; the losses are of the query items."""
    start = {name: p.clone().requires_grad_() for name, p in params.items()}
    losses, support_losses, total = [], [], dict.fromkeys(NAMES, 0)
    for support_x, support_label, query_x, query_label in tasks:
        items = torch.cat([support_x, query_x]), torch.cat([support_label, query_label])
        after, path = descend(start, *items, fixed(options, NAMES))
        total = {name: total[name] + (start[name] - after[-1][name]).detach() / len(tasks) for name in NAMES}
        losses.append(loss_of(after[-1], query_x, query_label))
        support_losses.append(path)
    return summary(losses, support_losses, total)


def summary(losses, support_losses, grads):
    return {
        "loss": torch.stack(list(losses)).mean().item(),
        "task_loss": [loss.item() for loss in losses],
        **({"support_loss": list(support_losses)} if support_losses[0] else {}),
        "grads": {name: g.tolist() for name, g in grads.items()},
    }


def learner_results(params, tasks, normal):
    """For each learner its options, the meta-parameters beside those of the model, and what it gives."""
    body = {name: params[name] for name in ("w1", "b1")}
    step_rates = {f"rate/{name}": 0.3 + 0.1 * torch.tanh(normal(LEARNERS["maml_plus_plus"]["steps"])) for name in NAMES}
    table = {  # learner, the model's meta-parameters, more of them
        "meta_sgd": (
            meta_sgd,
            params,
            {f"rate/{name}": 0.3 + 0.1 * torch.tanh(normal(*p.shape)) for name, p in params.items()},
        ),
        "anil": (anil, params, {}),
        "boil": (boil, params, {}),
        "maml_plus_plus": (maml_plus_plus, params, step_rates),
        "maml_plus_plus_first_order": (maml_plus_plus, params, step_rates),
        "cavia": (cavia, params, {"mix": normal(LEARNERS["cavia"]["context"], HIDDEN)}),
        "proto_maml": (proto_maml, body, {}),
        "protonet": (protonet, body, {}),
        "matching_network": (matching_network, body, {}),
        "r2d2": (r2d2, body, {"log_penalty": torch.tensor(0.5).log(), "log_scale": torch.tensor(3.0).log()}),
    }
    results = {
        name: {"more": {}, **rule(params, tasks, LEARNERS[name])}
        for name, rule in (("imaml", imaml), ("reptile", reptile))
    }
    for name, (learner, model, more) in table.items():
        results[name] = mean_over_tasks(learner, model | more, tasks, LEARNERS[name])
        results[name]["more"] = {extra: leaf.tolist() for extra, leaf in more.items()}
    return {name: {"options": LEARNERS[name], **result} for name, result in results.items()}


class Classifier(torch.nn.Module):
    """The same network as a module, for `higher`."""

    def __init__(self, params):
        super().__init__()
        self.w1, self.b1, self.w2, self.b2 = (torch.nn.Parameter(p.clone()) for p in params)

    def forward(self, x):
        return torch.tanh(x @ self.w1 + self.b1) @ self.w2 + self.b2


def compare_with_higher(params, tasks, optimizer, steps, expected):
    """Print and bound the difference between `higher` and the loop above."""
    import higher

    model = Classifier(params)
    options = OPTIMIZERS[optimizer]
    inner = torch.optim.SGD(model.parameters(), lr=options["rate"], momentum=options.get("decay", 0.0))
    for support_x, support_label, query_x, query_label in tasks:
        with higher.innerloop_ctx(model, inner, copy_initial_weights=False) as (fast_model, fast_optimizer):
            for _ in range(steps):
                fast_optimizer.step(functional.cross_entropy(fast_model(support_x), support_label))
            (functional.cross_entropy(fast_model(query_x), query_label) / len(tasks)).backward()
    worst = max(
        (p.grad - torch.tensor(expected["grads"][name], dtype=torch.float64)).abs().max().item()
        for name, p in model.named_parameters()
    )
    print(f"higher against plain autograd, {optimizer}, {steps} steps: largest difference {worst:.1e}")
    if worst > 1e-10:
        raise SystemExit("higher disagrees with plain autograd")


def main():
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    def labels(items):
        return torch.randint(WAYS, (items,), generator=generator)

    params = [normal(FEATURES, HIDDEN) / 2, normal(HIDDEN) / 2, normal(HIDDEN, WAYS) / 2, normal(WAYS) / 2]
    tasks = [(normal(SUPPORT, FEATURES), labels(SUPPORT), normal(QUERY, FEATURES), labels(QUERY)) for _ in range(TASKS)]
    results = {
        f"{optimizer}-{steps}-{order}": meta_gradient(params, tasks, optimizer, steps, order == "second_order")
        for optimizer in OPTIMIZERS
        for steps in STEPS
        for order in ("second_order", "first_order")
    }
    try:
        for optimizer in ("sgd", "momentum"):
            for steps in STEPS:
                compare_with_higher(params, tasks, optimizer, steps, results[f"{optimizer}-{steps}-second_order"])
    except ImportError:
        print("higher is not installed: not compared")

    columns = [torch.stack(column).tolist() for column in zip(*tasks, strict=True)]
    fixture = {
        "torch": torch.__version__,
        "optimizers": OPTIMIZERS,
        "params": {name: p.tolist() for name, p in zip(NAMES, params, strict=True)},
        "support": {"x": columns[0], "label": columns[1]},
        "query": {"x": columns[2], "label": columns[3]},
        "results": results,
        "learners": learner_results(dict(zip(NAMES, params, strict=True)), tasks, normal),
    }
    path = Path(__file__).with_name("torch_fixture.json")
    path.write_text(json.dumps(fixture) + "\n")
    print(f"wrote {path.name}, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
