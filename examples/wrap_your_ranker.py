"""Wrap your ranker, a torch model that knows no rationales.  python wrap_your_ranker.py, in the project folder."""

from pathlib import Path

import torch
from torch import nn

from ranking.features import load_features
from ranking.project import RankingProject
from ranking.splits import Split
from ranking.wrap import wrap


class YourRanker(nn.Module):  # stands for a model of yours
    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user_embedding = nn.Embedding(users, 32)
        self.item_embedding = nn.Embedding(items, 32)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.user_embedding(users) * self.item_embedding(items)).sum(dim=-1)


project = RankingProject.open(Path())
split = Split.of(project)
features = load_features(project, split)
model = wrap(YourRanker(split.n_users, split.n_items), features.rationales)

optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
users, items = map(torch.from_numpy, split.training_pairs())
for _ in range(30):
    others = torch.randint(split.n_items, items.shape)
    loss = -nn.functional.logsigmoid(model(users, items) - model(users, others)).mean()  # BPR
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{features.rationales.has.mean():.0%} of {split.n_users:,} users have a rationale, loss {loss.item():.3f}")
