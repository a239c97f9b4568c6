"""Write torch_fixture.json: meta-gradients of MAML by plain torch autograd, in float64.

An oracle outside jax: the inner loop is written out by hand on lists of
tensors, with ``create_graph=True`` for second order and detached gradients for
first order. Where `higher` is installed, it is checked to agree.

    python tests/algorithms/make_torch_fixture.py    # torch 2.13.0, about 5 s

The numbers are stored as Python's shortest decimals, which read back exactly
as float64. The model is tanh(x W1 + b1) W2 + b2 with softmax cross-entropy.
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
    }
    path = Path(__file__).with_name("torch_fixture.json")
    path.write_text(json.dumps(fixture) + "\n")
    print(f"wrote {path.name}, {path.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main()
